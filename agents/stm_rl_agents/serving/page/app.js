// The playground: one session at a time, what it said and what its memory did. Start here.

import * as api from "./api.js";
import { exchangeItems, following, message, toEnd } from "./chat.js";
import { askToken, confirmed, showSessions } from "./dialogs.js";
import { byId, count, el } from "./dom.js";
import { showNothing, showSlots, showTokens, showWhy } from "./memory.js";

const KEPT = 300; // exchanges kept for looking back; the server itself keeps only window and slots

const input = byId("message");
const tabs = document.querySelectorAll("#tabs button");
const memoryOn = byId("memory-on");
let model = "";
let busy = false;
let stop = new AbortController(); // stops the request under way
let selected = null; // index of the exchange whose memory is shown; null for now
let session = fresh();

function fresh() {
  const day = new Date().toISOString().slice(0, 16).replace(/\D/g, "");
  const bytes = crypto.getRandomValues(new Uint8Array(6)); // randomUUID is missing on plain http
  return { id: `chat-${day}-${Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("")}`,
    turns: 0, slots: [], earlier: 0, before: [], exchanges: [] };
}

// What this tab has seen of a session, so that a reload shows it again.
const stored = (id) => `stm-rl-session-${id}`;
const recall = (id) => JSON.parse(sessionStorage.getItem(stored(id)) ?? "null");
function keep() {
  const dropped = session.exchanges.splice(0, session.exchanges.length - KEPT);
  if (dropped.length) {
    session.earlier += session.before.length + 2 * dropped.length;
    session.before = [];
  }
  try {
    sessionStorage.setItem(stored(session.id), JSON.stringify(session));
  } catch {
    sessionStorage.removeItem(stored(session.id)); // full: after a reload the window is shown, which the server has
  }
}

function showError(error) {
  document.querySelector("dialog[open]")?.close();
  const { message, advice } = error;
  const sentence = `${message[0].toUpperCase()}${message.slice(1)}${/[.!?]$/.test(message) ? "" : "."}`;
  byId("error").replaceChildren(el("strong", {}, sentence), ` ${advice}`);
  byId("error").hidden = false;
}

/** Do `work`; show what goes wrong, and ask for the token where the server wants one. True if it was done. */
async function run(work) {
  byId("error").hidden = true;
  try {
    await work();
    return true;
  } catch (error) {
    if (!(error instanceof api.ApiError)) {
      console.error(error);
      showError({ message: `The page failed: ${error.message}.`, advice: "Reload it." });
      return false;
    }
    if (error.status === 401 && (await askToken())) return run(work);
    showError(error);
    return false;
  }
}

async function findModel() {
  model ||= (await api.models()).data[0].id;
  byId("model").textContent = model;
}

function show() {
  const shown = selected ?? session.exchanges.length - 1;
  const exchange = session.exchanges[shown];
  byId("turns").replaceChildren(
    ...session.before.map(({ speaker, text }) => message(speaker, text)),
    ...session.exchanges.flatMap((each, index) =>
      exchangeItems(each, index === shown, (event) => select(index, event),
        !busy && each.memory && index === session.exchanges.length - 1 ? compare : null)));
  byId("earlier").hidden = !session.earlier;
  const turns = count(session.earlier, "turn");
  byId("earlier").textContent = `Before this: ${turns}. The server keeps the window and the slots only.`;
  byId("welcome").hidden = session.turns > 0 || busy;
  byId("delete-session").disabled = session.turns === 0 || busy;

  const past = selected === null ? null : exchange;
  showSlots((past ?? session).slots, exchange?.operations ?? [], past, past || busy ? null : forget);
  byId("why-title").textContent = past ? "That turn" : "This turn";
  if (exchange) {
    showWhy(exchange);
    showTokens(session.exchanges, shown);
  } else {
    showNothing();
  }
}

/** Show the memory as it was after an exchange. */
function select(index, event) {
  selected = index === session.exchanges.length - 1 ? null : index;
  const button = [...document.querySelectorAll(".done")].indexOf(event?.currentTarget);
  show();
  if (button < 0) return;
  document.querySelectorAll(".done")[button].focus(); // the button was made anew
  showTab("memory");
  if (!byId("turns").offsetParent) tabs[1].focus(); // on a narrow screen the chat has made room for the memory
}

/** Show the chat or the memory where the screen is too narrow for both. */
function showTab(name) {
  document.body.dataset.view = name;
  for (const tab of tabs) tab.setAttribute("aria-pressed", String(tab.dataset.show === name));
}

function setBusy(value) {
  busy = value;
  stop = new AbortController();
  byId("send").textContent = value ? "Stop" : "Send";
  document.body.toggleAttribute("data-busy", value);
}

async function send() {
  const question = input.value.trim();
  if (!question || busy) return;
  const memory = memoryOn.checked;
  const answer = message("assistant", "");
  const text = answer.querySelector(".text");
  selected = null;
  setBusy(true);
  show();
  byId("turns").append(message("user", question), answer);
  text.classList.add("waiting");
  input.value = "";
  grow();
  toEnd();
  const done = await run(async () => {
    text.textContent = "";
    await findModel();
    const { id, turns } = session;
    const messages = [{ role: "user", content: question }];
    const reply = await api.chat({ model, session: id, messages, memory, turn: turns, signal: stop.signal },
      (whole) => following(() => { text.textContent = whole; }));
    const state = reply.memory;
    const before = state.turns - state.operations.length;
    if (before !== turns) { // it went on elsewhere or was deleted: what this tab saw is not what came before
      Object.assign(session, { before: [], exchanges: [], earlier: before });
    }
    session.turns = state.turns;
    session.slots = state.slots;
    session.exchanges.push({ question, answer: reply.text, memory, turns: state.turns, operations: state.operations,
      slots: state.slots, reads: state.reads, leftOut: state.left_out,
      sent: state.tokens_sent, full: state.tokens_full_history });
  });
  setBusy(false);
  if (done) {
    keep();
    history.replaceState(null, "", `#${session.id}`);
    byId("announce").textContent = `Answer: ${session.exchanges.at(-1).answer}`;
  } else if (!input.value) {
    input.value = question; // nothing is lost: it can be sent again
    grow();
  }
  following(show);
  input.focus();
}

/** Ask the last question again with the window only, in a session of its own that is deleted at once. */
async function compare() {
  const exchange = session.exchanges.at(-1);
  setBusy(true);
  show();
  await run(async () => {
    const { window } = await api.memoryOf(session.id);
    const said = [
      ...session.before.map(({ speaker, text }) => [speaker, text]),
      ...session.exchanges.flatMap(({ question, answer }) => [["user", question], ["assistant", answer]]),
    ];
    const messages = said.slice(0, -1).slice(-window.length)
      .map(([speaker, content]) => ({ role: speaker === "assistant" ? "assistant" : "user", content }));
    const other = fresh().id; // the server makes it when it has answered, not before
    const asked = { model, session: other, messages, memory: false, turn: 0, signal: stop.signal };
    exchange.without = (await api.chat(asked)).text;
    await api.deleteSession(other);
    keep();
    byId("announce").textContent = `Answer without memory: ${exchange.without}`;
  });
  setBusy(false);
  following(show);
}

/** Show another session: all this tab saw of it if nothing has happened since, else what the server has. */
async function open(id) {
  await run(async () => {
    const state = await api.memoryOf(id);
    const seen = recall(id);
    session = seen?.turns === state.turns ? seen : { ...fresh(), id, turns: state.turns, before: state.window,
      earlier: state.turns - state.window.length };
    session.slots = state.slots;
    selected = null;
    history.replaceState(null, "", `#${id}`);
    show();
    toEnd();
  });
}

function startNew() {
  session = fresh();
  selected = null;
  byId("error").hidden = true;
  history.replaceState(null, "", location.pathname);
  show();
  input.focus();
}

async function remove(id) {
  const text = `${id}: its window and its memory are deleted on the server. This cannot be undone.`;
  const sure = await confirmed("Delete this session?", text, "Delete session");
  if (!sure || !(await run(() => api.deleteSession(id)))) return false;
  sessionStorage.removeItem(stored(id));
  if (id === session.id) startNew();
  return true;
}

async function reloadSlots() {
  session.slots = (await api.memoryOf(session.id)).slots;
  keep();
  show();
}

async function forget(slot) {
  await run(async () => {
    await api.forgetSlot(session.id, slot);
    await reloadSlots();
    byId("announce").textContent = `Slot ${slot} is empty`;
  });
}

async function emptyMemory() {
  const text = "Every slot of this session is emptied. The last turns stay in the window.";
  if (!(await confirmed("Empty the memory?", text, "Empty"))) return;
  await run(async () => {
    await api.emptyMemory(session.id);
    await reloadSlots();
    byId("announce").textContent = "The memory is empty";
  });
}

/** Open the session that the address names, if it names one. */
const openLinked = () => busy || location.hash.length < 2 || open(location.hash.slice(1));

/** Let the field be as high as its text, up to a limit set in the style sheet. */
function grow() {
  input.style.height = "auto";
  input.style.height = `${input.scrollHeight + 2}px`;
}

byId("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  if (busy) stop.abort();
  else send();
});
input.addEventListener("input", grow);
input.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
    event.preventDefault();
    send();
  }
});
memoryOn.addEventListener("change", () => {
  byId("memory-label").textContent = memoryOn.checked ? "Memory on" : "Memory off";
});
for (const tab of tabs) tab.addEventListener("click", () => showTab(tab.dataset.show));
byId("open-sessions").addEventListener("click", () => showSessions(session.id, run, (id) => busy || open(id), remove));
byId("new-session").addEventListener("click", () => busy || startNew());
byId("empty-memory").addEventListener("click", emptyMemory);
byId("delete-session").addEventListener("click", () => remove(session.id));
byId("back-to-now").addEventListener("click", () => select(session.exchanges.length - 1));

addEventListener("hashchange", openLinked);

await run(findModel);
show();
await openLinked();
document.body.dataset.ready = "";
