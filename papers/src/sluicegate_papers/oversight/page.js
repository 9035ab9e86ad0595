"use strict";

// Plays how arrows on a board change while a net learns. The boards are drawn by the page, at the end of training; this moves their parts.
(() => {
  const DATA = JSON.parse(document.getElementById("boards-data").textContent);
  const WHOLE = 200, NONE = 255, SQUARE = 40, TURNS = [0, 180, 270, 90], LOOK = 420, SLOW = 900;
  const $ = (id) => document.getElementById(id);
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const squares = DATA.size * DATA.size, boards = DATA.placements.length;
  const bytes = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const shares = DATA.shares.map((one) => ({ ...one, arrows: one.arrows.map(bytes), gate: bytes(one.gate) }));
  const panels = [...document.querySelectorAll("#stage .board")].map((svg) => ({
    arrows: [...svg.querySelectorAll(".arrow")], gates: [...svg.querySelectorAll(".gate")],
    ghost: svg.querySelector(".ghost"), diamond: svg.querySelector(".diamond"), eye: svg.querySelector(".eye"),
  }));
  const earned = [...document.querySelectorAll(".earned")];
  const state = { share: 0, board: 0, eye: false, at: shares[0].steps.length - 1, playing: false, since: 0 };

  const middle = (square) => [SQUARE * (square % DATA.size + 0.5), SQUARE * (Math.floor(square / DATA.size) + 0.5)];
  const last = () => shares[state.share].steps.length - 1;
  const place = (look) => (look * boards + state.board) * 2 + (state.eye ? 1 : 0); // [look, board, flag]

  // A probability between two looks; none where the agent cannot stand.
  function between(values, index, next, t) {
    const a = values[index], b = values[next];
    return a === NONE || b === NONE ? null : ((1 - t) * a + t * b) / WHOLE;
  }

  function draw() {
    const one = shares[state.share], from = Math.floor(state.at), to = Math.min(from + 1, last()), t = state.at - from;
    panels.forEach((panel, n) => {
      const values = one.arrows[n], here = place(from) * squares * 4, next = place(to) * squares * 4;
      panel.arrows.forEach((arrow, i) => {
        const p = between(values, here + i, next + i, t), [x, y] = middle(Math.floor(i / 4));
        arrow.setAttribute("transform", `translate(${x} ${y}) rotate(${TURNS[i % 4]}) scale(${p === null ? 0.3 : 0.3 + 0.7 * p})`);
        arrow.style.opacity = p === null ? 0 : 0.05 + 0.95 * p;
      });
      if (DATA.gated[n])
        panel.gates.forEach((rect, i) => {
          const w = between(one.gate, place(from) * squares + i, place(to) * squares + i, t);
          rect.style.fill = `var(--${w !== null && w < 0.5 ? "suppressed" : "distilled"})`;
          rect.style.opacity = w === null ? 0 : 0.9 * Math.abs(w - 0.5);
        });
      const [ghost, diamond] = DATA.placements[state.board].map(middle);
      for (const part of [panel.ghost, panel.eye]) part.setAttribute("transform", `translate(${ghost[0]} ${ghost[1]})`);
      panel.diamond.setAttribute("transform", `translate(${diamond[0]} ${diamond[1]})`);
      panel.eye.setAttribute("visibility", state.eye ? "visible" : "hidden");
      const value = one.returns[n][Math.round(state.at)];
      earned[n].textContent = value === null || value === undefined ? "" : `returns ${value.toFixed(2).replace("-", "\u2212")}`;
    });
    const step = one.steps[Math.round(state.at)];
    $("now").textContent = `update ${step}`;
    $("at").max = last();
    $("at").value = Math.round(state.at);
    $("at").setAttribute("aria-valuetext", `update ${step} of ${one.steps[last()]}`);
  }

  function go(look) {
    state.at = Math.min(Math.max(look, 0), last());
    draw();
  }

  function play(on) {
    if (on && state.at >= last()) state.at = 0;
    state.playing = on;
    state.since = 0;
    $("play").textContent = on ? "Pause" : "Play";
    $("play").setAttribute("aria-pressed", on);
    if (on) requestAnimationFrame(tick);
    draw();
  }

  // Smoothly from look to look; or, where less motion is asked for, from one still picture to the next.
  function tick(now) {
    if (!state.playing) return;
    state.since ||= now;
    if (still.matches) {
      if (now - state.since >= SLOW) {
        state.since = now;
        go(Math.floor(state.at) + 1);
      }
    } else {
      go(state.at + Math.min(now - state.since, 100) / LOOK); // a page that was out of sight goes on where it was
      state.since = now;
    }
    if (state.at >= last()) play(false);
    else requestAnimationFrame(tick);
  }

  $("controls").hidden = false;
  $("play").addEventListener("click", () => play(!state.playing));
  $("at").addEventListener("input", () => {
    const look = Number($("at").value); // before it is drawn anew
    play(false);
    go(look);
  });
  $("board").addEventListener("change", () => { state.board = Number($("board").value); draw(); });
  $("share")?.addEventListener("change", () => { state.share = Number($("share").value); go(state.at); });
  $("eye").addEventListener("change", () => { state.eye = $("eye").checked; draw(); });
  $("watch").addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("select")) return;
    const range = event.target === $("at"), own = event.target.matches("button, input");
    const keys = {
      " ": () => play(!state.playing), ArrowRight: () => { play(false); go(Math.floor(state.at) + 1); },
      ArrowLeft: () => { play(false); go(Math.ceil(state.at) - 1); }, Home: () => { play(false); go(0); }, End: () => { play(false); go(last()); },
      e: () => $("eye").click(), E: () => $("eye").click(),
    };
    if (!(event.key in keys) || (event.key === " " && own && !range)) return; // a button or a box does with space what it always does
    event.preventDefault();
    keys[event.key]();
  });
  window.sluicegate = { state };
  draw();
})();
