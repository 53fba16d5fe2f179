// The two small charts: tokens over the turns, and the probabilities of one decision.

import { count, el, percent, svg } from "./dom.js";

const WIDTH = 320;
const HEIGHT = 120;
const EDGE = { left: 4, right: 4, top: 18, bottom: 6 };

/** Draw tokens sent and tokens of the full history over the exchanges: a list of { sent, full }. */
export function tokenChart(points, selected) {
  const most = Math.max(1, ...points.flatMap(({ sent, full }) => [sent, full]));
  const step = (WIDTH - EDGE.left - EDGE.right) / Math.max(1, points.length - 1);
  const x = (index) => EDGE.left + index * step;
  const y = (value) => HEIGHT - EDGE.bottom - (value / most) * (HEIGHT - EDGE.top - EDGE.bottom);
  const last = points[selected];
  const line = (name) => {
    const corners = points.map((point, index) => `${x(index).toFixed(1)} ${y(point[name]).toFixed(1)}`);
    return [
      svg("path", { d: `M${corners.join("L")}`, class: `line ${name}` }),
      svg("circle", { cx: x(selected), cy: y(last[name]), r: 3.5, class: `dot ${name}` }),
    ];
  };
  const share = last.full ? last.sent / last.full : 1;
  const full = last.full.toLocaleString("en");
  const told = `${count(last.sent, "token")} sent, ${full} in the full history`;
  const summary = `Question ${selected + 1} of ${points.length}: ${told}`;
  const figure = (name, label) =>
    el("div", { class: `figure ${name}` }, el("dt", {}, label), el("dd", {}, last[name].toLocaleString("en")));
  return [
    el("dl", { class: "figures" },
      figure("sent", "sent"),
      figure("full", "full history"),
      el("div", { class: "figure" }, el("dt", {}, "share"), el("dd", {}, percent(share)))),
    svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "chart", role: "img", "aria-label": summary },
      svg("line", { x1: 0, x2: WIDTH, y1: y(0), y2: y(0), class: "axis" }),
      svg("line", { x1: 0, x2: WIDTH, y1: y(most), y2: y(most), class: "axis faint" }),
      svg("text", { x: 0, y: EDGE.top - 8 }, count(most, "token")),
      ...line("full"),
      ...line("sent")),
  ];
}

/** Draw the probabilities of one decision; the first is that of choosing no slot, which `none` names. */
export function bars(title, probabilities, chosen, none) {
  const items = probabilities.map((share, choice) => {
    const value = share >= 0.02 || choice === chosen ? Math.round(100 * share) : "";
    const bar = el("span", { class: "bar", "aria-hidden": "true" }, el("span", { class: "value" }, value));
    bar.style.setProperty("--share", share);
    const name = choice ? `slot ${choice}` : none;
    return el("li", { class: choice === chosen ? "chosen" : null, title: `${name}: ${percent(share)}` },
      bar,
      el("span", { class: "name", "aria-hidden": "true" }, choice || "–"),
      el("span", { class: "unseen" }, `${name}: ${percent(share)}${choice === chosen ? ", chosen" : ""}`));
  });
  return el("figure", { class: "bars" },
    el("figcaption", {}, title, el("span", { class: "hint" }, `in %; – is “${none}”`)),
    el("ol", {}, ...items));
}
