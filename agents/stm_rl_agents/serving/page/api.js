// Talks to the server. Every failure is an ApiError that says what happened and what to do.

const TOKEN = "stm-rl-token";

const ADVICE = {
  401: "Give the token of this server.",
  404: "It may have been deleted or have expired. Start a new session.",
  409: "It went on elsewhere. Reload the page to see where it is now.",
  413: "Send a shorter message.",
  429: "Wait a moment, then send it again.",
  502: "The model's server does not answer as it should. Send the message again, or look at its log.",
  503: "The server is not ready or is stopping. Send the message again in a moment.",
  504: "The model took too long. Send the message again.",
};

export class ApiError extends Error {
  constructor(status, message, advice = ADVICE[status] ?? (status >= 500 ? "Look at the server's log." : "")) {
    super(message);
    this.status = status;
    this.advice = advice;
  }
}

/** Keep the token for this tab. */
export const useToken = (token) => sessionStorage.setItem(TOKEN, token);

const stopped = () => new ApiError(0, "Stopped.", "The session is as it was before.");

async function problem(response) {
  let message = `The server answered ${response.status}.`;
  try {
    const { error } = await response.json();
    if (error?.message) message = error.message;
  } catch {
    // An answer that is not JSON (a proxy's page) has nothing to show.
  }
  return new ApiError(response.status, message);
}

async function request(path, { method = "GET", body, headers = {}, signal } = {}) {
  const token = sessionStorage.getItem(TOKEN);
  const all = { ...headers };
  if (token) all.Authorization = `Bearer ${token}`;
  if (body) all["Content-Type"] = "application/json";
  let response;
  try {
    const text = body && JSON.stringify(body);
    response = await fetch(path, { method, headers: all, body: text, signal, cache: "no-store" });
  } catch {
    if (signal?.aborted) throw stopped();
    throw new ApiError(0, "The server cannot be reached.", "Check that stm-rl serve is running, then try again.");
  }
  if (!response.ok) throw await problem(response);
  return response;
}

const json = async (path, options) => (await request(path, options)).json();
const url = (session, ...rest) => ["/v1/sessions", encodeURIComponent(session), ...rest].join("/");

export const models = () => json("/v1/models");
export const sessions = (after) =>
  json(`/v1/sessions?${new URLSearchParams(after ? { limit: "100", after } : { limit: "100" })}`);
export const memoryOf = (session) => json(url(session, "memory"));
export const emptyMemory = (session) => request(url(session, "memory"), { method: "DELETE" });
export const forgetSlot = (session, slot) => request(url(session, "memory", slot), { method: "DELETE" });
export const deleteSession = (session) => request(url(session), { method: "DELETE" });

/** Yield the JSON values of a stream of server-sent events; fail if it ends before [DONE]. */
async function* events(response, signal) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    let part;
    try {
      part = await reader.read();
    } catch {
      break;
    }
    if (part.done) break;
    rest += part.value;
    const blocks = rest.split(/\r?\n\r?\n/);
    rest = blocks.pop();
    for (const block of blocks) {
      const data = block.split(/\r?\n/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).trim());
      if (!data.length) continue;
      if (data.join("") === "[DONE]") return;
      yield JSON.parse(data.join("\n"));
    }
  }
  if (signal?.aborted) throw stopped();
  throw new ApiError(0, "The answer broke off.", "Check that the server is running, then send the message again.");
}

/**
 * Send messages to a session and give the answer's text piece by piece to onPart.
 * Returns { text, memory } once the server has saved the turn.
 */
export async function chat({ model, session, messages, memory, turn, signal }, onPart = () => {}) {
  const response = await request("/v1/chat/completions", {
    method: "POST",
    headers: { "X-Session-Id": session },
    // The server answers a request that it knows with the answer it gave. The turn tells the same words said again
    // from a request sent again.
    body: { model, messages, memory, stream: true, metadata: { turn: String(turn) } },
    signal,
  });
  let text = "";
  let state = null;
  for await (const chunk of events(response, signal)) {
    if (chunk.error) throw new ApiError(502, chunk.error.message);
    const piece = chunk.choices?.[0]?.delta?.content;
    if (piece) onPart((text += piece));
    if (chunk.memory) state = chunk.memory;
  }
  return { text, memory: state };
}
