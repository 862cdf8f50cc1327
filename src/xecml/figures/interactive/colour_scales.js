"use strict";
/* From a number to one of 256 colours, and the ticks of a colour bar. */

/** A number for people: four digits, no exponent where none is needed. */
function short(value, digits = 4) {
  if (!Number.isFinite(value)) return "-";
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e6)) return value.toExponential(Math.max(digits - 2, 0));
  const decimals = size === 0 ? 0 : Math.max(0, digits - 1 - Math.floor(Math.log10(size)));
  return value.toFixed(Math.min(decimals, 6)).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "");
}

class ColourScale {
  /**
   * kind: "linear", "log", or "asinh" (linear about 0, logarithmic far from it, for differences);
   * knee: where "asinh" turns from one to the other.
   */
  constructor(colours, kind, low, high, knee = 1) {
    Object.assign(this, { colours, kind, low, high, knee });
    this.from = this.bent(low);
    this.range = this.bent(high) - this.from || 1;
  }

  bent(value) {
    if (this.kind === "log") return Math.log(Math.max(value, 1e-30));
    return this.kind === "asinh" ? Math.asinh(value / this.knee) : value;
  }

  /** Place on the bar, from 0 to 1. */
  share(value) {
    return Math.min(1, Math.max(0, (this.bent(value) - this.from) / this.range));
  }

  index(value) {
    return Math.round(255 * this.share(value));
  }

  ticks() {
    const found = { log: () => this.logTicks(), asinh: () => this.asinhTicks(), linear: () => this.linearTicks() }[this.kind]();
    return found.filter((v) => v >= this.low - 1e-9 * Math.abs(this.low) && v <= this.high * (1 + 1e-9) + 1e-12);
  }

  logTicks() {
    const first = Math.floor(Math.log10(this.low)), last = Math.ceil(Math.log10(this.high));
    const steps = last - first <= 2 ? [1, 2, 5] : [1];
    const found = [];
    for (let decade = first; decade <= last; decade++) for (const step of steps) found.push(step * 10 ** decade);
    return found;
  }

  asinhTicks() {
    const found = [0];
    const last = Math.floor(Math.log10(this.high)), first = Math.max(Math.ceil(Math.log10(this.knee)), last - 3);
    for (let decade = first; decade <= last; decade++) found.push(10 ** decade, -(10 ** decade));
    return found;
  }

  linearTicks() {
    const raw = (this.high - this.low) / 6, decade = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].find((s) => s * decade >= raw) * decade;
    const found = [];
    for (let i = Math.ceil(this.low / step); i * step <= this.high * (1 + 1e-9); i++) found.push(i * step);
    return found;
  }

  /** Draw the bar with its ticks and label on a canvas. */
  draw(canvas, label, text) {
    const [context, width] = fitted(canvas), left = 12, right = width - 12, top = 4, height = 16;
    for (let x = left; x < right; x++) {
      context.fillStyle = this.colours[Math.round((255 * (x - left)) / (right - left))];
      context.fillRect(x, top, 1.5, height);
    }
    context.fillStyle = context.strokeStyle = text;
    context.font = "12px system-ui, sans-serif";
    context.textAlign = "center";
    let free = -Infinity;
    const ticks = this.ticks().sort((a, b) => a - b);
    for (const value of ticks) {
      const x = left + this.share(value) * (right - left), said = short(value, 3), half = context.measureText(said).width / 2;
      context.fillRect(x - 0.5, top + height, 1, 4);
      if (x - half < free) continue;
      context.fillText(said, Math.min(Math.max(x, half), width - half), top + height + 16);
      free = x + half + 8;
    }
    context.fillText(label, width / 2, top + height + 33);
  }
}

/** A canvas with as many pixels as the screen shows of it: its context in CSS pixels, width and height, all cleared. */
function fitted(canvas) {
  const ratio = window.devicePixelRatio || 1, width = canvas.clientWidth, height = canvas.clientHeight;
  const wanted = [Math.max(1, Math.round(width * ratio)), Math.max(1, Math.round(height * ratio))];
  if (canvas.width !== wanted[0] || canvas.height !== wanted[1]) [canvas.width, canvas.height] = wanted;
  const context = canvas.getContext("2d");
  context.setTransform(ratio, 0, 0, ratio, 0, 0);
  context.clearRect(0, 0, width, height);
  return [context, width, height];
}
