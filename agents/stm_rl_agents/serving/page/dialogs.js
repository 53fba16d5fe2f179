// The dialogs: the list of sessions, the question before something is deleted, and the token.

import * as api from "./api.js";
import { byId, count, el } from "./dom.js";

for (const button of document.querySelectorAll("dialog [data-close]")) {
  button.addEventListener("click", () => button.closest("dialog").close());
}

const closed = (dialog) => new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));

/** Ask before something is done that cannot be undone; resolves to true or false. */
export async function confirmed(title, text, action) {
  const dialog = byId("confirm");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = action;
  dialog.returnValue = "no";
  dialog.showModal();
  await closed(dialog);
  return dialog.returnValue === "yes";
}

/** Ask for the token; resolves to true if one was given. */
export async function askToken() {
  const dialog = byId("token");
  const field = byId("token-field");
  field.value = "";
  dialog.returnValue = "";
  if (!dialog.open) dialog.showModal();
  const given = new Promise((resolve) => {
    byId("token-form").addEventListener("submit", () => resolve(true), { once: true });
    closed(dialog).then(() => resolve(false));
  });
  const answer = await given;
  if (answer) api.useToken(field.value.trim());
  field.value = "";
  return answer;
}

const when = (seconds) => new Date(1000 * seconds).toLocaleString([], { dateStyle: "medium", timeStyle: "short" });

/** Show the list of sessions; `run` does a request and shows its errors, `open` and `remove` take a session's id. */
export async function showSessions(current, run, open, remove) {
  const dialog = byId("sessions");
  const rows = byId("session-list");
  const more = byId("more-sessions");
  const known = [];

  const row = ({ id, turns, used }) => {
    const item = el("li", { "aria-current": id === current ? "true" : null },
      el("button", { type: "button", class: "open", onclick: () => { dialog.close(); open(id); } },
        el("span", { class: "id" }, id),
        el("span", { class: "hint" }, count(turns, "turn"), `, ${when(used)}`)),
      el("button", { type: "button", class: "quiet danger", "aria-label": `Delete session ${id}`, onclick: async () => {
        if (!(await remove(id))) return;
        known.splice(known.findIndex((session) => session.id === id), 1);
        item.remove();
      } }, "Delete"));
    return item;
  };
  const load = (after) => run(async () => {
    const page = await api.sessions(after);
    known.push(...page.data);
    known.sort((a, b) => b.used - a.used);
    rows.replaceChildren(...known.map(row));
    more.hidden = !page.has_more;
    more.onclick = () => load(page.data.at(-1).id);
    byId("sessions-note").textContent = known.length ? "" : "The server keeps no session yet.";
  });
  if (await load()) dialog.showModal();
}
