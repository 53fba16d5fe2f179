"use strict";

// Texts are untrusted: they only ever become text nodes.
const ASPECTS = ["coherence", "consistency", "relevance"];
const STOP = new Set(("a about all also am an and any are as at be been but by can could did do does for from had has " +
  "have he her him his how i if in into is it its just me more my no not now of on one or our out she so some that the " +
  "their them then there they this to too up us was we were what when where which who will with would yes you your")
  .split(" "));
const $ = (id) => document.getElementById(id);

const state = {
  rater: "", item: null, choice: "", marks: {}, cursor: -1, done: 0, total: 0, since: 0, busy: false, related: false,
};

function node(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

function key(name) { return node("kbd", name); }

// Requests.

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body),
  };
  const response = await fetch(path, options);
  const answer = await response.json();
  if (!response.ok) throw new Error(answer.error.message);
  return answer;
}

async function run(work) {
  if (state.busy) return;
  state.busy = true;
  try {
    show(await work());
    complain("");
  } catch (error) {
    complain(error instanceof TypeError ? "The server cannot be reached; nothing was lost. Start it again and retry."
      : error.message);
  } finally {
    state.busy = false;
  }
}

function complain(text) {
  $("error").textContent = text;
  $("error").hidden = !text;
}

const next = () => run(() => ask(`/api/next?rater=${encodeURIComponent(state.rater)}`));
const undo = () => run(() => ask("/api/undo", { rater: state.rater }));
const save = (choice) => run(() => ask("/api/ratings", {
  rater: state.rater, item: state.item.item, choice, aspects: choice === "skip" ? {} : complete(),
  seconds: Math.min((performance.now() - state.since) / 1000, 86400),
}));

function complete() {
  const whole = Object.entries(state.marks).filter(([, pair]) => pair[0] && pair[1]);
  return Object.fromEntries(whole);
}

// What is shown.

function show(answer) {
  Object.assign(state, { done: answer.done, total: answer.total, item: answer.item, since: performance.now() });
  state.choice = answer.given && answer.given.choice !== "skip" ? answer.given.choice : "";
  state.marks = {};
  for (const name of ASPECTS) {
    const given = answer.given && answer.given.aspects[name];
    state.marks[name] = given ? [...given] : [0, 0];
  }
  state.cursor = state.choice ? 0 : -1;
  state.related = false;
  $("login").hidden = true;
  $("pair").hidden = !answer.item;
  $("end").hidden = !answer.end;
  $("bar").max = Math.max(answer.total, 1);
  $("bar").value = answer.done;
  $("count").textContent = `${answer.done} of ${answer.total}`;
  $("who").textContent = state.rater;
  if (answer.end) showEnd(answer.end);
  if (!answer.item) return;
  $("find").value = "";
  showHistory(false);
  showTexts();
  refresh();
  window.scrollTo(0, 0);
}

function words(text) {
  return (text.toLowerCase().match(/[\p{L}\p{N}']+/gu) || []).filter((word) => !STOP.has(word) && (word.length > 2 || /\d/.test(word)));
}

// The words of the last turn and of both texts, whichever is which: where they occur in the history may be evidence.
function sought() {
  const typed = $("find").value.trim().toLowerCase();
  if (typed) return (text) => text.toLowerCase().includes(typed);
  const wanted = new Set(words([state.item.window.at(-1) || "", state.item.first, state.item.second].join(" ")));
  state.item.speaker.toLowerCase().split(/\s+/).forEach((word) => wanted.delete(word));
  const speaker = /^([^:]{1,30}):/.exec(state.item.window.at(-1) || "");
  if (speaker) words(speaker[1]).forEach((word) => wanted.delete(word));
  return (text) => words(text).some((word) => wanted.has(word));
}

function marked(line, wanted) {
  const made = node("li");
  const typed = $("find").value.trim().toLowerCase();
  const at = typed ? line.toLowerCase().indexOf(typed) : -1;
  if (at >= 0) {
    made.append(line.slice(0, at), node("mark", line.slice(at, at + typed.length)), line.slice(at + typed.length));
  } else if (!typed) {
    for (const part of line.split(/([\p{L}\p{N}']+)/u)) made.append(part && wanted(part) ? node("mark", part) : part);
  } else {
    made.append(line);
  }
  return made;
}

function showHistory(open) {
  const { history, window: seen } = state.item;
  const wanted = sought();
  const lines = history.map((line) => [line, wanted(line)]);
  const count = lines.filter(([, hit]) => hit).length;
  $("tools").hidden = !history.length;
  $("fold").replaceChildren(`${open ? "Hide" : "Show"} ${history.length} earlier turns `, key("h"));
  $("fold").setAttribute("aria-expanded", String(open));
  $("related").replaceChildren(`Only ${$("find").value.trim() ? "found" : "related"} turns (${count}) `, key("r"));
  $("related").setAttribute("aria-pressed", String(state.related));
  $("history").hidden = !open;
  const shown = lines.map(([line, hit], index) => {
    const made = marked(line, wanted);
    made.value = index + 1;
    made.hidden = state.related && !hit;
    return made;
  });
  $("history").replaceChildren(...shown);
  $("window").start = history.length + 1;
  $("window").replaceChildren(...seen.map((line) => node("li", line)));
}

const isOpen = () => !$("history").hidden;

function showTexts() {
  const made = ["first", "second"].map((side, index) => {
    const card = node("button", undefined, "card");
    card.type = "button";
    card.dataset.choice = side;
    const head = node("span", undefined, "head");
    head.append(`Text ${index + 1} is better `, key(String(index + 1)));
    const speaker = state.item.speaker ? `${state.item.speaker}: ` : "";
    const text = node("span", undefined, "text");
    text.append(node("b", speaker), state.item[side]);
    card.append(head, text);
    card.addEventListener("click", () => choose(side));
    return card;
  });
  $("texts").replaceChildren(...made);
  const table = node("table");
  const head = node("tr");
  head.append(node("td"), node("th", "Text 1"), node("th", "Text 2"));
  table.append(head, ...ASPECTS.map(row));
  $("marks").replaceChildren(table);
}

function row(name, index) {
  const made = node("tr");
  made.append(node("th", name[0].toUpperCase() + name.slice(1)));
  [0, 1].forEach((side) => {
    const cell = node("td");
    const group = node("span", undefined, "scale");
    group.setAttribute("role", "group");
    group.setAttribute("aria-label", `${name} of text ${side + 1}`);
    group.dataset.cell = String(2 * index + side);
    for (let mark = 1; mark <= 5; mark += 1) {
      const button = node("button", String(mark));
      button.type = "button";
      button.addEventListener("click", () => { state.cursor = 2 * index + side; setMark(mark); });
      group.append(button);
    }
    cell.append(group);
    made.append(cell);
  });
  return made;
}

function refresh() {
  for (const card of document.querySelectorAll(".card")) {
    card.setAttribute("aria-pressed", String(card.dataset.choice === state.choice));
  }
  $("tie").setAttribute("aria-pressed", String(state.choice === "tie"));
  $("save").disabled = !state.choice;
  $("undo").disabled = !state.done;
  $("marks").classList.toggle("active", Boolean(state.choice));
  for (const group of document.querySelectorAll(".scale")) {
    const cell = Number(group.dataset.cell);
    const mark = state.marks[ASPECTS[cell >> 1]][cell & 1];
    group.classList.toggle("here", cell === state.cursor);
    [...group.children].forEach((button, index) => button.setAttribute("aria-pressed", String(index + 1 === mark)));
  }
}

function showEnd(end) {
  const decided = end.memory + end.none;
  const told = [
    node("h2", "That was the last pair. Thank you!"),
    node("p", decided ? `You preferred the text that was written with memory in ${end.memory} of ${decided} pairs.`
      : "You preferred no text to the other."),
    node("p", `Equally good: ${end.ties}. Skipped: ${end.skipped}.`),
  ];
  const back = node("button");
  back.type = "button";
  back.append("Undo last ", key("u"));
  back.addEventListener("click", undo);
  $("end").replaceChildren(...told, back);
}

// What the rater does.

function choose(choice) {
  complain("");
  state.choice = choice;
  state.cursor = Math.max(state.cursor, 0);
  refresh();
}

function setMark(mark) {
  if (!state.choice) {
    complain("Say first which text is better.");
    state.cursor = -1;
    return;
  }
  complain("");
  state.marks[ASPECTS[state.cursor >> 1]][state.cursor & 1] = mark;
  if (mark) state.cursor = Math.min(state.cursor + 1, 2 * ASPECTS.length - 1);
  refresh();
}

function move(by) {
  if (!state.choice) return;
  state.cursor = Math.min(Math.max(state.cursor + by, 0), 2 * ASPECTS.length - 1);
  refresh();
}

function backspace() {
  if (!state.choice) return;
  const [name, side] = [ASPECTS[state.cursor >> 1], state.cursor & 1];
  if (!state.marks[name][side]) move(-1);
  state.marks[ASPECTS[state.cursor >> 1]][state.cursor & 1] = 0;
  refresh();
}

function finish() {
  if (!state.choice) return;
  const half = Object.entries(state.marks).find(([, pair]) => Boolean(pair[0]) !== Boolean(pair[1]));
  if (half) {
    state.cursor = 2 * ASPECTS.indexOf(half[0]) + (half[1][0] ? 1 : 0);
    refresh();
    complain(`Mark the ${half[0]} of both texts, or of neither (Backspace takes a mark away).`);
    return;
  }
  save(state.choice);
}

function back() {
  state.choice = "";
  state.cursor = -1;
  refresh();
}

function toggleRelated() {
  state.related = !state.related;
  showHistory(true);
}

const ACTIONS = {
  "=": () => choose("tie"), Enter: finish, s: () => save("skip"), u: undo, h: () => showHistory(!isOpen()), r: toggleRelated,
  "/": () => { showHistory(true); $("find").focus(); }, Escape: back, Backspace: backspace,
  ArrowLeft: () => move(-1), ArrowRight: () => move(1),
};

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || !$("login").hidden) return;
  if (event.target === $("find")) {
    if (event.key === "Escape" || event.key === "Enter") { $("find").blur(); event.preventDefault(); }
    return;
  }
  const onButton = event.target instanceof HTMLButtonElement && event.key === "Enter";
  if (!$("end").hidden && event.key === "u") return void undo();
  if ($("pair").hidden || (onButton && event.target.id !== "save")) return;
  let action = ACTIONS[event.key];
  if (/^[1-5]$/.test(event.key)) {
    if (state.choice) action = () => setMark(Number(event.key));
    else if (event.key <= "2") action = () => choose(event.key === "1" ? "first" : "second");
  }
  if (!action) return;
  event.preventDefault();
  if (document.activeElement instanceof HTMLButtonElement) document.activeElement.blur();
  action();
});

$("tie").addEventListener("click", () => choose("tie"));
$("save").addEventListener("click", finish);
$("skip").addEventListener("click", () => save("skip"));
$("undo").addEventListener("click", undo);
$("fold").addEventListener("click", () => showHistory(!isOpen()));
$("related").addEventListener("click", toggleRelated);
$("find").addEventListener("input", () => showHistory(true));
$("login").addEventListener("submit", (event) => {
  event.preventDefault();
  state.rater = $("name").value.trim();
  next();
});

state.rater = (new URLSearchParams(window.location.search).get("rater") || "").trim();
if (state.rater) next();
else { $("login").hidden = false; $("name").focus(); }
