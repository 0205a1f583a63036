// A conversation with the server that this page came from, over /v1/chat/completions.
import { ask, modelName } from "./client.js";
import { calculator, CALCULATOR } from "./calculator.js";
import { element, show } from "./text.js";

const $ = (id) => document.getElementById(id);
const log = $("log");
let messages = []; // as the server wants them
let running = null; // what stops the answer that is being written
let model = "";

function options() {
  const chosen = {
    model,
    reasoning_effort: document.querySelector("[name=effort]:checked").value,
    temperature: Number($("temperature").value),
  };
  if ($("most").value) chosen.max_completion_tokens = Number($("most").value);
  const tools = listedTools();
  if (tools.length) chosen.tools = tools;
  return chosen;
}

function listedTools() {
  const functions = $("calculator").checked ? [CALCULATOR] : [];
  const given = $("tools").value.trim();
  if (given) {
    const listed = JSON.parse(given);
    if (!Array.isArray(listed)) throw new Error("The tools are no JSON list.");
    functions.push(...listed.map((one) => one.function ?? one));
  }
  return functions.map((one) => ({ type: "function", function: one }));
}

function atEnd() {
  return log.scrollHeight - log.scrollTop - log.clientHeight < 60;
}

// Add to the conversation; go along only with a reader who is at its end.
function add(node) {
  const follow = atEnd();
  $("empty").hidden = true;
  log.append(node);
  if (follow) log.scrollTop = log.scrollHeight;
  return node;
}

function complain(error) {
  add(element("p", "error", error.message)).setAttribute("role", "alert");
  if (error.status === 401) {
    openSettings(true);
    $("key").focus();
  }
}

// One answer of the model as it comes: reasoning, text and calls, each in its place.
class Shown {
  constructor() {
    this.node = add(element("article", "assistant"));
    this.node.setAttribute("aria-busy", "true");
    this.message = { role: "assistant", content: "" };
    this.calls = [];
    this.begun = this.last = 0;
  }

  take(delta) {
    const follow = atEnd();
    this.begun ||= performance.now(); // the first token is there
    if (delta.reasoning_content) this.think(delta.reasoning_content);
    if (delta.content) this.say(delta.content);
    for (const call of delta.tool_calls ?? []) this.call(call);
    this.last = performance.now();
    if (follow) log.scrollTop = log.scrollHeight;
  }

  think(text) {
    if (!this.thought) {
      this.reasoning = element("details", "reasoning");
      this.reasoning.open = true;
      this.thought = element("p");
      this.reasoning.append(element("summary", "", "Thinking"), this.thought);
      this.node.append(this.reasoning);
      this.message.reasoning_content = "";
    }
    this.message.reasoning_content += text;
    this.thought.append(text);
  }

  say(text) {
    this.fold();
    this.text ??= this.node.appendChild(element("div", "text"));
    this.message.content += text;
    show(this.text, this.message.content);
  }

  call(delta) {
    this.fold();
    if (delta.id) {
      const card = element("section", "call");
      card.append(element("strong", "", delta.function.name), element("pre"));
      this.node.append(card);
      const made = { name: delta.function.name, arguments: "" };
      this.calls[delta.index] = { id: delta.id, type: "function", function: made, card };
    }
    const call = this.calls[delta.index];
    call.function.arguments += delta.function.arguments ?? "";
    call.card.querySelector("pre").textContent = call.function.arguments;
  }

  fold() {
    if (!this.reasoning || this.folded) return;
    this.folded = true;
    this.reasoning.open = false;
    this.reasoning.querySelector("summary").textContent = "Reasoning";
  }

  rate(tokens) {
    const seconds = (this.last - this.begun) / 1000;
    return seconds > 0 ? ((tokens - 1) / seconds).toFixed(1) : "–";
  }

  end(reason, usage) {
    this.fold();
    this.node.setAttribute("aria-busy", "false");
    const notes = [];
    if (usage) {
      const { prompt_tokens_details: prompt, completion_tokens_details: written } = usage;
      notes.push(`${this.rate(usage.completion_tokens)} tokens/s`);
      notes.push(`${usage.completion_tokens} tokens, ${written.reasoning_tokens} of reasoning`);
      notes.push(`prompt ${usage.prompt_tokens}, ${prompt.cached_tokens} from the cache`);
    }
    if (reason === "length") notes.push("cut off at the longest answer");
    if (reason === "stopped") notes.push("stopped");
    $("status").textContent = notes.join(" · ");
    if (reason !== "tool_calls") this.calls = []; // one that was cut off is no call
    if (this.calls.length) {
      this.message.tool_calls = this.calls.map(({ card, ...call }) => call);
    }
    // What says nothing is not worth remembering.
    if (this.message.content || this.calls.length) messages.push(this.message);
  }

  // Return the calls' results: of the page's own tool at once, of others from the user.
  async results() {
    const own = (call) => call.function.name === "calculator" && $("calculator").checked;
    const answers = this.calls.map(async (call) => {
      const text = own(call) ? calculator(call.function.arguments) : await byHand(call);
      call.card.append(element("pre", "result", text));
      return { role: "tool", tool_call_id: call.id, content: text };
    });
    return Promise.all(answers);
  }
}

function byHand(call) {
  const form = element("form");
  const label = element("label", "hidden", `Result of ${call.function.name}`);
  const input = element("input");
  input.id = label.htmlFor = `result-${call.id}`;
  input.placeholder = `What ${call.function.name} gives`;
  form.append(label, input, element("button", "", "Answer"));
  call.card.append(form);
  input.focus();
  return new Promise((resolve, reject) => {
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      form.remove();
      resolve(input.value);
    });
    running.signal.addEventListener("abort", () => {
      form.remove();
      reject(new DOMException("stopped", "AbortError"));
    });
  });
}

async function answer() {
  const chosen = options();
  for (;;) {
    const told = $("instructions").value.trim();
    const instructions = told ? [{ role: "developer", content: told }] : [];
    const shown = new Shown();
    let reason = "stopped";
    let usage = null;
    try {
      const body = { ...chosen, messages: [...instructions, ...messages] };
      for await (const chunk of ask(body, $("key").value, running.signal)) {
        usage = chunk.usage ?? usage;
        const [choice] = chunk.choices;
        if (choice) shown.take(choice.delta);
        reason = choice?.finish_reason ?? reason;
      }
    } finally {
      shown.end(reason, usage);
    }
    if (!shown.calls.length) return;
    try {
      messages.push(...(await shown.results()));
    } catch (error) {
      messages.pop(); // a call without its result
      throw error;
    }
  }
}

async function send(text) {
  add(element("div", "user", text));
  messages.push({ role: "user", content: text });
  running = new AbortController();
  $("send").hidden = true;
  $("stop").hidden = false;
  $("status").textContent = "";
  try {
    await answer();
  } catch (error) {
    if (error.name !== "AbortError") complain(error);
  } finally {
    running = null;
    $("send").hidden = false;
    $("stop").hidden = true;
    $("text").focus();
  }
}

function fit() {
  $("text").style.height = "auto";
  $("text").style.height = `${$("text").scrollHeight + 2}px`;
}

function openSettings(open) {
  $("settings").hidden = !open;
  $("settings-button").setAttribute("aria-expanded", String(open));
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const text = $("text").value.trim();
  if (!text || running) return;
  $("text").value = "";
  fit();
  send(text);
});
$("text").addEventListener("input", fit);
$("text").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    $("form").requestSubmit();
  }
});
document.addEventListener("keydown", (event) => {
  if (event.key === "Escape") running?.abort();
});
$("stop").addEventListener("click", () => running?.abort());
$("new").addEventListener("click", () => {
  running?.abort();
  messages = [];
  log.replaceChildren($("empty"));
  $("empty").hidden = false;
  $("status").textContent = "";
  $("text").focus();
});
$("settings-button").addEventListener("click", () => openSettings($("settings").hidden));
$("key").addEventListener("change", begin);

async function begin() {
  try {
    model = await modelName($("key").value);
    $("model").textContent = model;
  } catch (error) {
    complain(error);
  }
}

begin();
