"use strict";

(() => {
  const DATA = JSON.parse(document.getElementById("data").textContent);
  const { classes, k, size } = DATA, pixelCount = size[0] * size[1] * size[2], count = classes.length;
  const nets = { routed: new Net(DATA.nets.routed, count, k), unrouted: new Net(DATA.nets.unrouted, count, k) };
  const NAMES = ["routed", "unrouted"], STEPS = 7, STRIP = 9, REACH = 3, TWEEN = 280;
  const $ = (id) => document.getElementById(id);
  const still = matchMedia("(prefers-reduced-motion: reduce)"), dark = matchMedia("(prefers-color-scheme: dark)");
  const noun = DATA.noun, most = nets.routed.most;

  // ---- pictures -----------------------------------------------------------------------------------------------------

  let blank, mark;
  function readColours() {
    const look = getComputedStyle(document.documentElement);
    const parts = (name) => look.getPropertyValue(name).trim().match(/[0-9a-f]{2}/gi).map((hex) => parseInt(hex, 16));
    [blank, mark] = [parts("--blank"), parts("--mark")];
  }

  const drawnLast = new Map(); // canvas -> pixels, to be painted anew when the colours change

  function paint(canvas, pixels) {
    const [height, width, channels] = size;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const context = canvas.getContext("2d"), image = context.createImageData(width, height);
    for (let i = 0; i < width * height; i++) {
      for (let c = 0; c < 3; c++)
        image.data[4 * i + c] = channels === 1 ? blank[c] + (mark[c] - blank[c]) * pixels[i] : 255 * pixels[i * channels + Math.min(c, channels - 1)];
      image.data[4 * i + 3] = 255;
    }
    context.putImageData(image, 0, 0);
    drawnLast.set(canvas, pixels);
  }

  function element(tag, attributes = {}, ...children) {
    const made = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) name in made && name !== "role" ? (made[name] = value) : made.setAttribute(name, value);
    made.append(...children);
    return made;
  }

  // ---- state --------------------------------------------------------------------------------------------------------

  const state = { pixels: new Float64Array(pixelCount), chosen: 0, read: -1, empty: true, at: -1 };
  const encoded = {}, shown = {}, ends = { a: {}, b: {} };
  let amountEdits = new Map(), styleEdits = new Map(), did = "", moving = 0, ending = 0;

  // The code of a net after everything that the person has changed. Amounts and styles are changed in each net's own range.
  function edited(name) {
    const net = nets[name], code = net.copy(encoded[name]);
    for (const [j, share] of amountEdits) code.amount[j] = share * net.most;
    for (const [at, units] of styleEdits) code.style[at] = net.usualStyle[at] + units * net.spread[at];
    return code;
  }

  function take(pixels, empty = false) {
    Object.assign(state, { pixels, empty });
    for (const name of NAMES) encoded[name] = nets[name].encode(pixels);
    // An empty pad is not a picture that the net has met: nothing is encoded.
    if (empty) for (const name of NAMES) encoded[name].amount.fill(0);
    amountEdits = new Map();
    styleEdits = new Map();
    did = "";
    state.read = nets.routed.reads(encoded.routed);
    if (state.read >= 0) choose(state.read);
    paint($("seen"), pixels);
    redraw();
    announce();
  }

  // ---- drawing what the state says ----------------------------------------------------------------------------------

  function redraw(ease = false) {
    cancelAnimationFrame(moving);
    clearTimeout(ending);
    const goal = Object.fromEntries(NAMES.map((name) => [name, edited(name)]));
    showSliders(goal.routed);
    if (!ease || still.matches || !shown.routed) return showCodes(goal);
    const from = { ...shown }, begun = performance.now();
    const frame = () => {
      const t = Math.min(1, (performance.now() - begun) / TWEEN), eased = t * t * (3 - 2 * t);
      showCodes(Object.fromEntries(NAMES.map((name) => [name, nets[name].between(from[name], goal[name], eased)])));
      moving = requestAnimationFrame(frame);
    };
    moving = requestAnimationFrame(frame);
    // The clock ends it, not the last frame: a tab that is not looked at gets no frames.
    ending = setTimeout(() => {
      cancelAnimationFrame(moving);
      showCodes(goal);
    }, TWEEN);
  }

  function showCodes(codes) {
    for (const name of NAMES) {
      const net = nets[name], nothing = codes[name].amount.every((value) => value === 0) && state.empty;
      shown[name] = codes[name];
      const picture = nothing ? new Float64Array(pixelCount) : net.decode(codes[name]);
      paint($(name), picture);
      if (name === "routed") paint($("mini"), picture);
      [...$(name + "-bars").children].forEach((bar, j) => bar.style.setProperty("--share", Math.min(1, codes[name].amount[j] / net.most)));
      // Both pictures are read by the routed encoder: the control's own largest amount has no meaning.
      const again = nothing ? -1 : nets.routed.reads(nets.routed.encode(picture));
      $(name + "-reads").textContent = nothing ? "" : again < 0 ? "reads as nothing" : "reads as " + classes[again];
    }
  }

  const slidersOf = { amounts: [], styles: [] };

  function showSliders(code) {
    slidersOf.amounts.forEach(({ row, input, output }, j) => {
      const share = Math.min(1, code.amount[j] / most);
      if (document.activeElement !== input || !amountEdits.has(j)) input.value = share;
      input.style.setProperty("--at", share);
      input.setAttribute("aria-valuetext", code.amount[j].toFixed(1));
      output.textContent = code.amount[j] ? code.amount[j].toFixed(1) : "0";
      row.classList.toggle("read", j === state.read);
      row.classList.toggle("chosen", j === state.chosen);
    });
    slidersOf.styles.forEach(({ input, output }, i) => {
      const at = state.chosen * k + i, net = nets.routed, units = Math.max(-REACH, Math.min(REACH, (code.style[at] - net.usualStyle[at]) / net.spread[at]));
      if (document.activeElement !== input || !styleEdits.has(at)) input.value = units;
      input.style.setProperty("--at", (units + REACH) / (2 * REACH));
      output.textContent = (units > 0.05 ? "+" : units < -0.05 ? "−" : "") + Math.abs(units).toFixed(1);
      input.setAttribute("aria-label", `Style ${i + 1} of block ${classes[state.chosen]}`);
      input.disabled = code.amount[state.chosen] === 0;
    });
    const changed = amountEdits.size + styleEdits.size > 0;
    $("reset").disabled = !changed;
    $("ablate").disabled = state.read < 0 || amountEdits.get(state.read) === 0;
    $("ablate").textContent = state.read < 0 ? `Ablate this ${noun}` : `Ablate the ${classes[state.read]}`;
    for (const [j, chip] of [...$("swaps").children].entries()) {
      chip.disabled = state.read < 0;
      chip.setAttribute("aria-pressed", changed && did === "swap" && state.chosen === j);
    }
  }

  let speaking = 0;
  function announce(text) {
    clearTimeout(speaking);
    speaking = setTimeout(() => {
      $("live").textContent = text ?? (state.empty ? "The pad is empty." : state.read < 0 ? "It reads as nothing." : `It reads as ${classes[state.read]}.`);
    }, 500);
  }

  // ---- what the person can do ---------------------------------------------------------------------------------------

  function changeAmount(j, share) {
    // A block that was off has no styles worth drawing: it begins with the usual ones.
    if (encoded.routed.amount[j] < 0.1 * nets.routed.usualAmount[j])
      for (let i = 0; i < k; i++) if (!styleEdits.has(j * k + i)) styleEdits.set(j * k + i, 0);
    amountEdits.set(j, share);
  }

  function ablate() {
    if (state.read < 0) return;
    amountEdits = new Map([[state.read, 0]]);
    styleEdits = new Map();
    did = "ablate";
    choose(state.read);
    redraw(true);
    $("did").textContent = `Block ${classes[state.read]} is off, in both networks. What is left is what the other blocks know of it.`;
  }

  function swap(j) {
    if (state.read < 0) return;
    amountEdits = new Map([[state.read, 0]]);
    styleEdits = new Map();
    if (j === state.read) amountEdits.clear();
    else changeAmount(j, nets.routed.usualAmount[j] / most);
    did = j === state.read ? "" : "swap";
    choose(j);
    redraw(true);
    $("did").textContent = did ? `Block ${classes[state.read]} is off and block ${classes[j]} on, in both networks.` : "";
  }

  function reset() {
    amountEdits = new Map();
    styleEdits = new Map();
    did = "";
    if (state.read >= 0) choose(state.read);
    redraw(true);
    $("did").textContent = "";
  }

  function choose(j) {
    if (j !== state.chosen || !$("traversal").firstChild) {
      state.chosen = j;
      $("styles-title").textContent = `Style of block ${classes[j]}`;
      [...$("blocks").children].forEach((block, i) => block.setAttribute("aria-pressed", i === j));
      traverse(j);
    }
  }

  function look(j) {
    choose(j);
    showSliders(edited("routed"));
  }

  function traverse(j) {
    const net = nets.routed, rows = $("traversal").rows;
    $("traversal-name").textContent = `What block ${classes[j]} draws by itself as its amount and its styles go up`;
    for (let row = 0; row <= k; row++)
      for (let step = 0; step < STEPS; step++) {
        const code = net.alone(j), at = step / (STEPS - 1);
        if (row === 0) code.amount[j] = at * net.most;
        else code.style[j * k + row - 1] += (2 * at - 1) * REACH * net.spread[j * k + row - 1];
        paint(rows[row].cells[step + 1].firstChild, net.decode(code));
      }
  }

  function keep(end, pixels) {
    ends[end] = { pixels };
    for (const name of NAMES) ends[end][name] = nets[name].encode(pixels);
    paint($("end-" + end), pixels);
    const read = nets.routed.reads(ends[end].routed);
    $("end-" + end).setAttribute("aria-label", `${end === "a" ? "First" : "Second"} drawing, reads as ${read < 0 ? "nothing" : classes[read]}`);
    if (!ends.a.routed || !ends.b.routed) return;
    for (const name of NAMES)
      [...$("strip-" + name).children].forEach((canvas, i) => paint(canvas, nets[name].decode(nets[name].between(ends.a[name], ends.b[name], i / (STRIP - 1)))));
    morph();
  }

  function morph() {
    const t = $("morph").value / 100;
    $("morph").style.setProperty("--at", t);
    $("morph").setAttribute("aria-valuetext", `${Math.round(t * 100)} % of the way`);
    for (const name of NAMES) paint($("morph-" + name), nets[name].decode(nets[name].between(ends.a[name], ends.b[name], t)));
  }

  const images = bytesOf(DATA.images), imageCount = images.length / pixelCount;
  const imageAt = (i) => Float64Array.from(images.subarray(i * pixelCount, (i + 1) * pixelCount), (value) => value / 255);

  function showImage(i) {
    const pixels = imageAt(i);
    state.at = i;
    $("pad-hint").hidden = true;
    $("source").textContent = `A test picture, labelled ${classes[DATA.labels[i]]}. Draw on the pad to begin your own.`;
    take(pixels);
    pad.show($("seen"));
  }

  function drawn(strokes) {
    state.at = -1;
    $("pad-hint").hidden = strokes.length > 0;
    take(rasterise(strokes, DATA), strokes.length === 0);
    $("source").textContent = strokes.length ? (state.read < 0 ? "Reads as nothing yet." : `Reads as ${classes[state.read]}.`) : "";
  }

  // ---- building what is repeated ------------------------------------------------------------------------------------

  function slider(kind, label, attributes, changed) {
    const input = element("input", { type: "range", ...attributes }), output = element("output", { "aria-hidden": "true" });
    const row = element("label", { className: "slider" }, element("span", {}, label), input, output);
    input.addEventListener("input", () => changed(+input.value));
    $(kind).append(row);
    slidersOf[kind].push({ row, input, output });
    return input;
  }

  const longest = Math.max(...classes.map((label) => label.length));
  if (longest > 2) $("amounts").style.setProperty("--name", `${Math.min(longest, 10)}ch`);
  $("swaps").classList.toggle("short", longest <= 2);

  const picture = (attributes = {}) => element("canvas", { className: "picture-of", ...attributes });

  classes.forEach((label, j) => {
    const input = slider("amounts", label, { min: 0, max: 1, step: 0.01, "aria-label": `Amount of ${label}` }, (share) => {
      changeAmount(j, share);
      did = "";
      $("did").textContent = "";
      choose(j);
      redraw();
    });
    // Not on focus: Tab passes over every slider, and would always end at the styles of the last.
    input.addEventListener("keydown", (event) => event.key === "Enter" && look(j));
    input.addEventListener("pointerdown", () => look(j));
    $("swaps").append(element("button", { onclick: () => swap(j), "aria-label": `Turn it into ${label}` }, label));
    const block = picture();
    paintLater(() => paint(block, nets.routed.decode(nets.routed.alone(j))));
    const isDead = DATA.dead.includes(j);
    $("blocks").append(
      element("button", { "aria-label": `Block ${label}${isDead ? ", dead" : ""}`, "aria-pressed": "false", onclick: () => look(j) },
        block, element("span", { className: isDead ? "problem" : "" }, label + (isDead ? " †" : ""))),
    );
    for (const name of NAMES) $(name + "-bars").append(element("i", {}, element("b", {}, name === "routed" ? label : "")));
  });
  for (let i = 0; i < k; i++)
    slider("styles", String(i + 1), { min: -REACH, max: REACH, step: 0.05 }, (units) => {
      styleEdits.set(state.chosen * k + i, units);
      redraw();
    });
  $("styles-box").hidden = k === 0;
  for (let row = 0; row <= k; row++) {
    const line = element("tr", {}, element("th", { scope: "row" }, row ? `style ${row}` : "amount"));
    for (let step = 0; step < STEPS; step++)
      line.append(element("td", {}, picture({ role: "img", "aria-label": row ? `${step - 3} spreads` : `${Math.round((100 * step) / (STEPS - 1))} %` })));
    $("traversal").append(line);
  }
  for (const name of NAMES) for (let i = 0; i < STRIP; i++) $("strip-" + name).append(picture());

  function paintLater(paintIt) {
    (paintLater.list ??= []).push(paintIt);
  }

  // ---- start --------------------------------------------------------------------------------------------------------

  readColours();
  // Pictures that reach to their edges get a margin to breathe in.
  const tight = DATA.box > 0.9 * Math.max(size[0], size[1]);
  document.body.classList.toggle("tight", tight);
  const pad = new Pad($("pad"), { pen: (DATA.pen / DATA.box) * 0.7, inset: tight ? 0.12 : 0, changed: drawn, say: announce });
  dark.addEventListener("change", () => {
    readColours();
    for (const [canvas, pixels] of drawnLast) paint(canvas, pixels);
    pad.paint();
  });
  paintLater.list.forEach((paintIt) => paintIt());
  traverse(0);
  $("random").addEventListener("click", () => showImage((state.at + 1 + Math.floor(Math.random() * (imageCount - 1))) % imageCount));
  $("undo").addEventListener("click", () => pad.undo());
  $("clear").addEventListener("click", () => pad.clear());
  $("ablate").addEventListener("click", ablate);
  $("reset").addEventListener("click", reset);
  $("morph").addEventListener("input", morph);
  for (const end of ["a", "b"]) $("keep-" + end).addEventListener("click", () => keep(end, state.pixels));
  showImage(0);
  keep("a", imageAt(DATA.morph[0]));
  keep("b", imageAt(DATA.morph[1]));

  // For tests, and for whoever opens the console.
  window.sluicegate = { DATA, nets, state, shown, ends, pad, take, rasterise, imageAt, drawnLast };
})();
