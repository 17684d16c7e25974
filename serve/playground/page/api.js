// Client of the server's API: returns its answers, or throws an ApiError.

const KEY = "potstill.key";

export class ApiError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export function useKey(key) {
  sessionStorage.setItem(KEY, key);
}

export function hasKey() {
  return sessionStorage.getItem(KEY) !== null;
}

/** Send a request; paths are relative, so that the server may be below a path of a proxy. */
async function ask(method, path, body, signal) {
  const key = sessionStorage.getItem(KEY);
  const headers = key ? { authorization: `Bearer ${key}` } : {};
  if (body) headers["content-type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the server cannot be reached");
  }
  if (response.ok) return response;
  if (response.status === 401) dispatchEvent(new Event("keyneeded"));
  const failure = await response.json().catch(() => null);
  throw new ApiError(response.status, failure?.error?.message ?? `status ${response.status}`);
}

export async function get(path) {
  return (await ask("GET", path)).json();
}

export async function post(path, body) {
  return (await ask("POST", path, body)).json();
}

/** Send a chat; returns the experiment's variant, if any, and the chunks of the answer. */
export async function chat(body, signal) {
  const options = { stream: true, stream_options: { include_usage: true } };
  const response = await ask("POST", "v1/chat/completions", { ...body, ...options }, signal);
  return {
    variant: response.headers.get("x-potstill-variant"),
    chunks: serverSentEvents(response.body),
  };
}

async function* serverSentEvents(stream) {
  let rest = "";
  for await (const text of texts(stream)) {
    const events = (rest + text).split("\n\n");
    rest = events.pop();
    for (const event of events) {
      const data = event.replace(/^data: ?/, "");
      if (data === "[DONE]") return;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(200, chunk.error.message);
      yield chunk;
    }
  }
  throw new ApiError(200, "the answer broke off");
}

async function* texts(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let read; !(read = await reader.read()).done; ) yield read.value;
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError(0, "the connection broke off");
  } finally {
    reader.releaseLock();
  }
}
