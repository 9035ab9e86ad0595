"use strict";

// The two nets, unpacked from base64, and what can be asked of them. No part of this file knows about the page.

function bytesOf(text) {
  const raw = atob(text), bytes = new Uint8Array(raw.length);
  for (let i = 0; i < raw.length; i++) bytes[i] = raw.charCodeAt(i);
  return bytes;
}

// One linear layer: {rows, columns, relu, bits, weight, scale, bias}. The weight is int16 or int8, with one float32 scale a row.
function layerFrom(spec) {
  const buffer = bytesOf(spec.weight).buffer, whole = spec.bits === 8 ? new Int8Array(buffer) : new Int16Array(buffer);
  const scale = new Float32Array(bytesOf(spec.scale).buffer), weight = new Float32Array(spec.rows * spec.columns);
  for (let i = 0; i < weight.length; i++) weight[i] = whole[i] * scale[(i / spec.columns) | 0];
  return { rows: spec.rows, columns: spec.columns, relu: spec.relu, weight, bias: new Float32Array(bytesOf(spec.bias).buffer) };
}

// Most pixels and about half of the hidden units are 0: only the others are multiplied.
function throughLayer(layer, input) {
  const lit = [];
  for (let i = 0; i < layer.columns; i++) if (input[i] !== 0) lit.push(i);
  const output = new Float64Array(layer.rows);
  for (let row = 0; row < layer.rows; row++) {
    const at = row * layer.columns;
    let sum = layer.bias[row];
    for (let i = 0; i < lit.length; i++) sum += layer.weight[at + lit[i]] * input[lit[i]];
    output[row] = layer.relu && sum < 0 ? 0 : sum;
  }
  return output;
}

class Net {
  constructor(spec, classes, k) {
    this.encoder = spec.encoder.map(layerFrom);
    this.amountHead = layerFrom(spec.amount);
    this.styleHead = k > 0 ? layerFrom(spec.style) : null;
    this.decoder = spec.decoder.map(layerFrom);
    this.classes = classes;
    this.k = k;
    Object.assign(this, spec.usual); // amount and style [classes (, k)] on a class's own images, spread of the styles, most
  }

  // Pixels, 0 to 1 -> {amount [classes], style [classes * k]}; amounts are never negative.
  encode(pixels) {
    const hidden = this.encoder.reduce((values, layer) => throughLayer(layer, values), pixels);
    return {
      amount: throughLayer(this.amountHead, hidden).map((value) => Math.max(0, value)),
      style: this.styleHead ? throughLayer(this.styleHead, hidden) : new Float64Array(0),
    };
  }

  // The decoder sees [a, a * s1, .., a * sk] of every class: a class of amount 0 says nothing.
  decode({ amount, style }) {
    const { classes, k } = this, code = new Float64Array(classes * (1 + k));
    for (let j = 0; j < classes; j++) {
      code[j * (1 + k)] = amount[j];
      for (let i = 0; i < k; i++) code[j * (1 + k) + 1 + i] = amount[j] * style[j * k + i];
    }
    const logits = this.decoder.reduce((values, layer) => throughLayer(layer, values), code);
    return logits.map((value) => 1 / (1 + Math.exp(-value)));
  }

  copy({ amount, style }) {
    return { amount: amount.slice(), style: style.slice() };
  }

  // Only class j, at the amount and the styles that its own images have on average.
  alone(j) {
    const code = { amount: new Float64Array(this.classes), style: Float64Array.from(this.usualStyle) };
    code.amount[j] = this.usualAmount[j];
    return code;
  }

  between(a, b, t) {
    const mix = (one, other) => one.map((value, i) => value + (other[i] - value) * t);
    return { amount: mix(a.amount, b.amount), style: mix(a.style, b.style) };
  }

  // The block with the largest amount, or -1 where nothing comes near what its own images have.
  reads({ amount }) {
    let best = 0;
    for (let j = 1; j < this.classes; j++) if (amount[j] > amount[best]) best = j;
    return amount[best] > 0.2 * this.usualAmount[best] && amount[best] > 0 ? best : -1;
  }
}
