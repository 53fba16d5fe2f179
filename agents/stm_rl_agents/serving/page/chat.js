// The left side: the conversation.

import { byId, el } from "./dom.js";
import { inWords } from "./memory.js";

const scroll = byId("scroll");

/** Keep the newest text in view if it was in view before `change`. */
export function following(change) {
  const atEnd = scroll.scrollHeight - scroll.scrollTop - scroll.clientHeight < 60;
  change();
  if (atEnd) scroll.scrollTop = scroll.scrollHeight;
}

export const toEnd = () => {
  scroll.scrollTop = scroll.scrollHeight;
};

/** A message; `done` is the button that shows its operations, if it has any. */
export function message(speaker, text, ...done) {
  const mine = speaker === "assistant" ? "assistant" : "user";
  return el("li", { class: `turn ${mine}` },
    el("p", { class: "speaker" }, speaker),
    el("p", { class: "text" }, text),
    ...done);
}

function doneButton(operation, selected, onSelect) {
  return el("button", {
    type: "button",
    class: "done",
    "aria-pressed": String(selected),
    "aria-label": `Turn ${operation.turn}: ${inWords(operation)}. Show in the memory`,
    onclick: onSelect,
  }, `${operation.turn} · ${inWords(operation)}`);
}

function compared(exchange, onCompare) {
  if (exchange.without !== undefined) {
    return el("div", { class: "without" },
      el("p", { class: "speaker" }, "the same question without memory"),
      el("p", { class: "text" }, exchange.without));
  }
  const text = "Answer without memory, to compare";
  return onCompare && el("button", { type: "button", class: "quiet compare", onclick: onCompare }, text);
}

/** The two messages of an exchange. A click anywhere on them selects it; onCompare asks again without memory. */
export function exchangeItems(exchange, selected, onSelect, onCompare) {
  const [first, ...others] = exchange.operations;
  const answer = others.at(-1);
  const items = [
    message("user", exchange.question, first && doneButton(first, selected, onSelect)),
    message(exchange.memory ? "assistant" : "assistant (memory off)", exchange.answer,
      answer && doneButton({ ...answer, reads: [] }, selected, onSelect), compared(exchange, onCompare)),
  ];
  items[1].className = "turn assistant";
  for (const item of items) {
    if (selected) item.classList.add("selected");
    // The button does the same for the keyboard; text that is being marked is left alone.
    item.addEventListener("click", (event) => {
      if (!event.target.closest("button") && getSelection().isCollapsed) onSelect();
    });
  }
  return items;
}
