// Requests to the server, and its events.

function headers(key) {
  const out = { "content-type": "application/json" };
  if (key) out.authorization = `Bearer ${key}`;
  return out;
}

async function failed(response) {
  const body = await response.json().catch(() => null);
  const message = body?.error?.message ?? response.statusText;
  return Object.assign(new Error(message), { status: response.status });
}

export async function modelName(key) {
  const response = await fetch("v1/models", { headers: headers(key) });
  if (!response.ok) throw await failed(response);
  return (await response.json()).data[0].id;
}

// Yield the chunks of an answer. An abort ends the request, and with it the model's work.
export async function* ask(body, key, signal) {
  const sent = { ...body, stream: true, stream_options: { include_usage: true } };
  const response = await fetch("v1/chat/completions", {
    method: "POST",
    headers: headers(key),
    body: JSON.stringify(sent),
    signal,
  });
  if (!response.ok) throw await failed(response);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) throw new Error("The connection was lost before the answer's end.");
    const events = (rest + value).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      yield chunk;
    }
  }
}
