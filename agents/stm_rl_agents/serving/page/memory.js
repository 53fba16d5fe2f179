// The right side: what the slots hold, what the agent did in a turn and how sure it was, and the tokens it saved.

import { bars, tokenChart } from "./chart.js";
import { byId, count, el } from "./dom.js";

// What is read after an answer is for whoever speaks next, the user: no model is sent it.
const isAnswer = (operation) => operation.speaker === "assistant";

/** What happened to each slot in the operations: { slot: { written, superseded, read, emptied } }. */
function marksOf(operations) {
  const marks = {};
  const of = (slot) => (marks[slot] ??= {});
  for (const operation of operations) {
    for (const slot of operation.forgotten) of(slot).emptied = true;
    if (!isAnswer(operation)) for (const read of operation.reads) of(read.slot).read = true;
    if (!operation.write) continue;
    of(operation.write).written = true;
    if (operation.superseded !== null) of(operation.write).superseded = operation.superseded;
  }
  return marks;
}

function slotItem(content, slot, mark, onForget) {
  const badge = el("span", { class: "badge", "aria-hidden": "true" }, slot);
  if (!content) {
    const kind = mark.emptied ? "slot empty emptied" : "slot empty";
    return el("li", { class: kind, "aria-label": `Slot ${slot}` },
      badge,
      el("span", { class: "hint" }, mark.emptied ? "emptied by the agent" : "empty"));
  }
  const reads = content.reads
    ? `read ${content.reads === 1 ? "once" : `${content.reads} times`}, last in turn ${content.last_read}`
    : "never read";
  const chip = (kind) => el("span", { class: `chip ${kind}` }, kind);
  const chips = ["written", "read"].filter((kind) => mark[kind]).map(chip);
  return el("li", { class: ["slot", ...Object.keys(mark)].join(" "), "aria-label": `Slot ${slot}` },
    badge,
    el("div", { class: "held" },
      el("p", { class: "text" }, content.text),
      "superseded" in mark &&
        el("p", { class: "old" }, chip("superseded"), " ", el("del", {}, mark.superseded)),
      el("p", { class: "hint" }, ...chips, `${content.speaker}, turn ${content.turn}`, el("span", {}, reads))),
    onForget &&
      el("button", {
        class: "quiet",
        type: "button",
        title: "Forget",
        "aria-label": `Forget slot ${slot}`,
        onclick: () => onForget(slot),
      }, "×"));
}

/**
 * Show the slots and mark what the operations did to them. `past` is the exchange after which they were so, null for
 * now; onForget is null where nothing can be forgotten.
 */
export function showSlots(slots, operations, past, onForget) {
  const marks = marksOf(operations);
  const used = slots.filter(Boolean).length;
  byId("slots").replaceChildren(
    ...slots.map((content, index) => slotItem(content, index + 1, marks[index + 1] ?? {}, onForget)));
  byId("slots-used").textContent = slots.length
    ? `${used} of ${slots.length} used${past ? ` after turn ${past.operations.at(-1).turn}` : ""}` : "";
  byId("memory").classList.toggle("past", past !== null);
  byId("back-to-now").hidden = past === null;
  byId("empty-memory").hidden = past !== null;
  byId("no-slots").hidden = slots.length > 0;
  byId("empty-memory").disabled = !onForget || used === 0;
}

const list = (slots) => `${slots.length === 1 ? "slot" : "slots"} ${slots.join(", ")}`;

/** Say in a few words what was done in a turn. */
export function inWords({ write, superseded, reads, forgotten }) {
  return [
    forgotten.length && `emptied ${list(forgotten)}`,
    write ? `written to slot ${write}${superseded === null ? "" : ", superseding what it held"}` : "not written",
    reads.length && `read ${list(reads.map((read) => read.slot))}`,
  ].filter(Boolean).join("; ");
}

/** Draw how sure a policy was of each read, and say what became of reads that were not sent. */
function readBars(operation) {
  const { reads, probabilities } = operation;
  const slots = reads.map((read) => read.slot);
  const likeliest = probabilities.read.map((shares) => shares.indexOf(Math.max(...shares)));
  const notes = [];
  if (likeliest.some((slot) => slot && !slots.includes(slot))) {
    notes.push("What is still in the window is not read again.");
  }
  if (isAnswer(operation) && reads.length) notes.push("Nobody but you speaks next: the model was not sent these.");
  return [
    ...probabilities.read.map((shares, index) => {
      const slot = likeliest[index];
      return bars(`Read ${index + 1}`, shares, !slot || slots.includes(slot) ? slot : null, "no read");
    }),
    ...notes.map((note) => el("p", { class: "hint" }, note)),
  ];
}

function decision(operation, memory) {
  const { turn, speaker, text, write, probabilities } = operation;
  return el("section", { class: "decision" },
    el("h3", {}, `Turn ${turn}, ${speaker}`),
    el("p", { class: "quote" }, text),
    el("p", {}, `${inWords(operation)[0].toUpperCase()}${inWords(operation).slice(1)}.`),
    probabilities && bars("Write", probabilities.write, write, "not written"),
    ...(probabilities && memory ? readBars(operation) : []),
    !probabilities && el("p", { class: "hint" }, "This agent follows a rule: it has no probabilities."));
}

/** Show what was decided in an exchange, and what was put in front of the model. */
export function showWhy(exchange) {
  const lines = exchange.reads.map((line) => el("li", {}, line));
  let told = "Put in front of the window:";
  if (!lines.length) told = "Nothing was put in front of the window.";
  if (!exchange.memory) told = "Memory was off: the model saw the window only.";
  const front = [el("p", {}, told), lines.length > 0 && el("ul", { class: "front" }, ...lines)].filter(Boolean);
  if (exchange.leftOut) {
    const lost = count(exchange.leftOut, "turn");
    const text = `The model's context was too short: it could not read ${lost} of these and the window.`;
    front.push(el("p", { class: "hint" }, text));
  }
  byId("why").replaceChildren(el("div", { class: "in-front" }, ...front),
    ...exchange.operations.map((operation) => decision(operation, exchange.memory)));
}

/** Draw the tokens of all exchanges, with the numbers of the selected one. */
export function showTokens(exchanges, selected) {
  byId("tokens").replaceChildren(...tokenChart(exchanges, selected));
}

/** Show a memory of which no operation is known. */
export function showNothing() {
  byId("why").replaceChildren(el("p", { class: "hint" }, "What the agent writes and reads, and how sure it is."));
  byId("tokens").replaceChildren(el("p", { class: "hint" }, "What the model is sent, against the full history."));
}
