// The official client for Node through the server, for test_server_clients.py.
import { createRequire } from "node:module";

const [url, modules] = process.argv.slice(2);
const OpenAI = createRequire(`${modules}/`)("openai").default;
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const model = "demo";
const messages = [{ role: "user", content: "What is 17 + 25?" }];
const out = {};

const whole = await client.chat.completions.create({ model, messages, temperature: 0 });
out.whole = whole.choices[0].message.content;
out.streamed = "";
for await (const chunk of await client.chat.completions.create({ model, messages, temperature: 0, stream: true })) {
  out.streamed += chunk.choices[0]?.delta?.content ?? "";
}
const weather = {
  type: "function",
  function: {
    name: "get_weather",
    description: "Get the current weather of a city.",
    parameters: {
      type: "object",
      properties: { city: { type: "string", description: "The name of the city." } },
      required: ["city"],
    },
    parse: JSON.parse,
    function: async ({ city }) => {
      out.city = city;
      return '{"temperature": 21, "condition": "sunny"}';
    },
  },
};
const asked = [{ role: "user", content: "What is the weather in Zurich?" }];
const runner = client.chat.completions.runTools({ model, messages: asked, temperature: 0, tools: [weather] });
out.tools = await runner.finalContent();
const stream = client.responses.stream({ model, input: "What is 17 + 25?", temperature: 0 });
out.events = [];
for await (const event of stream) out.events.push(event.type);
out.response = (await stream.finalResponse()).output_text;
const schema = {
  type: "object",
  properties: { name: { enum: ["Ann", "Bob"] }, grown: { type: "boolean" } },
  required: ["name", "grown"],
  additionalProperties: false,
};
const person = [{ role: "user", content: "Name a person." }];
const form = { type: "json_schema", json_schema: { name: "person", schema, strict: true } };
const bounded = { max_completion_tokens: 400, max_reasoning_tokens: 40 };
const made = await client.chat.completions.parse({ model, messages: person, temperature: 0, response_format: form, ...bounded });
out.person = Object.keys(made.choices[0].message.parsed);
out.reasoning = whole.choices[0].message.reasoning_content;
const tool = { type: "function", strict: true, name: "get_weather", parameters: { ...weather.function.parameters, additionalProperties: false } };
const call = await client.responses.create({ model, input: asked[0].content, temperature: 0, tools: [tool] });
const { call_id } = call.output.at(-1);
const answer = { type: "function_call_output", call_id, output: '{"temperature": 21, "condition": "sunny"}' };
const after = await client.responses.create({ model, input: [answer], previous_response_id: call.id, temperature: 0, tools: [tool] });
out.stored = after.output_text;
const raw = await client.completions.create({ model, prompt: "17 + 25", max_tokens: 4, temperature: 0 });
out.raw = raw.usage.completion_tokens;
try {
  await client.chat.completions.create({ model, messages, temperature: 9 });
} catch (error) {
  out.error = [error.status, error.param];
}
console.log(JSON.stringify(out));
