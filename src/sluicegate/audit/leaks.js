"use strict";
// The table of facts. Only the rows in view, and some above and below, are in the page: thousands stay quick.
(() => {
  const $ = (id) => document.getElementById("leaks-" + id);
  const data = JSON.parse($("data").textContent), frame = $("window"), body = $("rows"), find = $("find"), by = $("by");
  const plain = (v, digits) => {
    const text = v.toFixed(digits);
    return (Number(text) === 0 ? text.replace("-", "") : text).replace("-", "\u2212");
  };
  const chance = (v) => {
    const share = Math.exp(v), near = (share > 0 && share < .0095) || (share > .9905 && share < 1);
    const text = plain(100 * share, near ? 1 : 0);
    return ({"100.0": "100", "0.0": "0"}[text] ?? text) + "\u202f%";
  };
  const told = (v, right, nats) => v == null ? "\u2013" : (nats ? chance(v) : plain(v, 2)) + (right >= .5 ? " \u2713" : "");
  const made = (name, text, more = {}) => Object.assign(document.createElement(name), {textContent: text}, more);
  const texts = data.question.map((question, i) => (question + "\n" + data.answer[i]).toLowerCase());
  const all = texts.map((_, i) => i), orders = new Map([["", all]]);
  const gain = (a, i) => data.after[a][i] == null ? -Infinity : data.after[a][i] - (data.reference[a][i] ?? 0);
  let shown = all, height = 0, first = -1, last = -1, chosen = -1;

  const row = (at) => {
    const i = shown[at], a = by.value === "" ? data.best[i] : Number(by.value), {name, nats} = data.attackers[a];
    const tr = document.createElement("tr");
    for (const text of [data.question[i], data.answer[i]]) {
      const td = document.createElement("td");
      td.append(made("div", text));
      tr.append(td);
    }
    const values = {
      before: told(data.before[0][i], data.before[1][i], true), after: told(data.after[a][i], data.right[a][i], nats),
      reference: told(data.reference[a][i], 0, nats), likelier: data.z[i] == null ? "\u2013" : plain(data.z[i], 1), attacker: name,
    };
    for (const [of, text] of Object.entries(values)) {
      const td = made("td", text);
      td.dataset.of = of;
      tr.append(td);
    }
    tr.tabIndex = 0;
    tr.dataset.at = at;
    tr.setAttribute("aria-rowindex", at + 2);
    tr.classList.toggle("on", i === chosen);
    return tr;
  };
  const gap = (rows) => {
    const tr = made("tr", "", {className: "gap"}), td = document.createElement("td");
    td.colSpan = 7;
    tr.style.height = td.style.height = rows * height + "px";
    tr.setAttribute("aria-hidden", "true");
    tr.append(td);
    return tr;
  };
  const draw = (force) => {
    const from = Math.max(0, Math.floor(frame.scrollTop / height) - 8);
    const to = Math.min(shown.length, from + Math.ceil(frame.clientHeight / height) + 24);
    if (!force && from === first && to === last) return;
    const focused = body.contains(document.activeElement) ? document.activeElement.dataset.at : null;
    [first, last] = [from, to];
    body.replaceChildren(gap(from), ...shown.slice(from, to).map((_, k) => row(from + k)), gap(shown.length - to));
    if (focused !== null) body.querySelector(`[data-at="${focused}"]`)?.focus({preventScroll: true});
  };
  const measure = () => {
    frame.scrollTop = first = last = 0;
    body.replaceChildren(...shown.slice(0, 1).map((_, at) => row(at)));
    height = body.firstChild?.getBoundingClientRect().height || height || 56;
    draw(true);
  };
  const sift = () => {
    if (!orders.has(by.value)) orders.set(by.value, all.filter((i) => data.after[by.value][i] != null).sort((i, j) => gain(by.value, j) - gain(by.value, i)));
    const order = orders.get(by.value), words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = words.length ? order.filter((i) => words.every((word) => texts[i].includes(word))) : order;
    const count = `${shown.length.toLocaleString("en")} of ${all.length.toLocaleString("en")} facts`;
    $("said").textContent = shown.length ? `${count}, ${by.value === "" ? "those first that are most likelier than to a model that never knew"
      : "those first that this attacker raises most above the reference"}. Choose one to see what every attacker makes of it.` : `${count}.`;
    frame.firstElementChild.setAttribute("aria-rowcount", shown.length + 1);
    measure();
  };
  const open = (at) => {
    const i = chosen = shown[at], table = document.createElement("table"), head = table.createTHead().insertRow(), rows = table.createTBody();
    const names = ["attacker", "after", "reference", ...(data.original.some((own) => own[i] != null) ? ["original"] : [])];
    names.forEach((name) => head.append(made("th", name)));
    data.attackers.forEach(({name, nats, measure}, a) => {
      if (data.after[a][i] == null) return;
      const tr = rows.insertRow();
      tr.append(made("th", name, {title: measure, scope: "row"}), made("td", told(data.after[a][i], data.right[a][i], nats)));
      for (const of of names.slice(2)) tr.append(made("td", told(data[of][a][i], 0, nats)));
    });
    const wide = made("div", "", {className: "wide"});
    wide.append(table);
    $("one").replaceChildren(made("h3", "Question"), made("p", data.question[i]), made("h3", "Right answer"), made("p", data.answer[i] || "\u2013"), wide);
    draw(true);
  };
  const at = (event) => event.target.closest("tr")?.dataset.at;
  body.addEventListener("click", (event) => at(event) !== undefined && open(Number(at(event))));
  body.addEventListener("keydown", (event) => {
    if (at(event) === undefined) return;
    if (event.key === "Enter" || event.key === " ") open(Number(at(event)));
    else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      const next = Number(at(event)) + (event.key === "ArrowDown" ? 1 : -1);
      body.querySelector(`[data-at="${next}"]`)?.focus();
    } else return;
    event.preventDefault();
  });
  frame.addEventListener("scroll", () => draw(false), {passive: true});
  find.addEventListener("input", sift);
  by.addEventListener("change", sift);
  let width = innerWidth;
  addEventListener("resize", () => {
    if (innerWidth !== width) measure();
    width = innerWidth;
  });
  // Print shows as many rows as a page without JavaScript.
  addEventListener("beforeprint", () => body.replaceChildren(...shown.slice(0, 50).map((_, k) => row(k))));
  addEventListener("afterprint", () => draw(true));
  document.querySelector("#leaks .tools").hidden = false;
  frame.classList.add("live");
  sift();
})();
