"use strict";
/* The six faces unfolded, at true lengths: as the static pictures have them. */

/* Codes of sensors without a colour; what is 0 or more is the index of one. */
const NOT_READ = -1, DARK = -2, LATER = -3;

/** Draws the mark of a kind of first interaction about (x, y): a ring, a plus, a diamond; with a rim that shows on every colour. */
function drawMark(context, kind, x, y, size, look) {
  for (const [colour, width] of [[look.halo, 4.5], [look[kind], 2]]) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    if (kind === "true") context.arc(x, y, size, 0, 2 * Math.PI);
    if (kind === "model") {
      context.moveTo(x - size, y), context.lineTo(x + size, y);
      context.moveTo(x, y - size), context.lineTo(x, y + size);
    }
    if (kind === "conventional") {
      context.moveTo(x, y - size), context.lineTo(x + size, y), context.lineTo(x, y + size), context.lineTo(x - size, y);
      context.closePath();
    }
    context.stroke();
  }
}

/** Draws a line through points [x, y], with a rim, and an arrow head at its end. */
function drawLine(context, points, colour, halo, head) {
  const [a, b] = points.slice(-2), angle = Math.atan2(b[1] - a[1], b[0] - a[0]);
  for (const [stroke, width] of [[halo, 4], [colour, 1.8]]) {
    context.strokeStyle = stroke;
    context.lineWidth = width;
    context.beginPath();
    points.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    for (const turn of head ? [2.7, -2.7] : []) {
      context.moveTo(b[0], b[1]);
      context.lineTo(b[0] + head * Math.cos(angle + turn), b[1] + head * Math.sin(angle + turn));
    }
    context.stroke();
  }
}

/** Place of a pointer's event on a canvas, with the fractions of pixels that `offsetX` lacks. */
function pointed(e, canvas) {
  const box = canvas.getBoundingClientRect();
  return [e.clientX - box.left - canvas.clientLeft, e.clientY - box.top - canvas.clientTop];
}

/** Tells of a pointer over a canvas: `hover(x, y, pressed)` where it points, `drag(dx, dy)` while it is pressed, `leave()`. */
function follow(canvas, { hover, drag, leave }) {
  let last = [0, 0];
  canvas.addEventListener("pointerdown", (e) => {
    canvas.setPointerCapture(e.pointerId);
    last = pointed(e, canvas);
    hover(...last, true);
  });
  canvas.addEventListener("pointermove", (e) => {
    const [x, y] = pointed(e, canvas);
    if (e.buttons) drag(x - last[0], y - last[1]);
    else hover(x, y, false);
    last = [x, y];
  });
  canvas.addEventListener("pointerleave", leave);
}

class UnfoldedView {
  constructor(canvas, sensors, onHover) {
    Object.assign(this, { canvas, sensors, zoom: 1, middle: null });
    [[this.left, this.right], [this.bottom, this.top]] = sensors.about.picture;
    this.reset();
    follow(canvas, {
      hover: (x, y, pressed) => onHover(this.at(x, y), pressed),
      drag: (dx, dy) => this.drag(dx, dy),
      leave: () => onHover(-1),
    });
    canvas.addEventListener("dblclick", () => (this.reset(), this.again()));
    canvas.addEventListener("wheel", (e) => this.wheel(e), { passive: false });
  }

  reset() {
    this.zoom = 1;
    this.middle = [(this.left + this.right) / 2, (this.bottom + this.top) / 2];
  }

  /** Screen pixels of a centimetre, at the current size of the canvas. */
  get scale() {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    return this.zoom * Math.min(width / (this.right - this.left), height / (this.top - this.bottom));
  }

  screen(x, y) {
    const { clientWidth: width, clientHeight: height } = this.canvas, scale = this.scale;
    return [width / 2 + scale * (x - this.middle[0]), height / 2 - scale * (y - this.middle[1])];
  }

  /** Place of a sensor on the screen. */
  place(id) {
    return this.screen(this.sensors.across[id], this.sensors.up[id]);
  }

  /** Sensor at a place of the screen, -1 if there is none. */
  at(px, py) {
    const { across, up } = this.sensors, scale = this.scale, { clientWidth: width, clientHeight: height } = this.canvas;
    const x = this.middle[0] + (px - width / 2) / scale, y = this.middle[1] - (py - height / 2) / scale;
    let best = -1, nearest = Infinity;
    for (let i = 0; i < N_SENSORS; i++) {
      const distance = Math.hypot(across[i] - x, up[i] - y);
      // a little beyond the rim, so that there are no gaps between SiPMs
      if (distance < nearest && distance < 1.3 * this.sensors.radius(i)) (best = i), (nearest = distance);
    }
    return best;
  }

  drag(dx, dy) {
    if (this.zoom === 1) return;
    this.middle[0] -= dx / this.scale;
    this.middle[1] += dy / this.scale;
    this.again();
  }

  wheel(e) {
    e.preventDefault();
    const { clientWidth: width, clientHeight: height } = this.canvas, before = this.scale;
    this.zoom = Math.min(20, Math.max(1, this.zoom * Math.exp(-e.deltaY / 400)));
    const change = 1 / before - 1 / this.scale;
    this.middle[0] += (e.offsetX - width / 2) * change;
    this.middle[1] -= (e.offsetY - height / 2) * change;
    if (this.zoom === 1) this.reset();
    this.again();
  }

  draw(picture) {
    this.picture = picture;
    this.again();
  }

  again() {
    if (!this.picture) return;
    const [context] = fitted(this.canvas), { look } = this.picture;
    this.drawSensors(context);
    context.fillStyle = look.faint;
    context.font = "12px system-ui, sans-serif";
    context.textAlign = "center";
    for (const [face, [x, y]] of Object.entries(this.sensors.about.face_titles)) {
      context.fillText(face, ...this.screen(x, y).map((v, i) => v - 2 * i));
    }
    this.drawFrame(context);
    for (const [kind, mark] of Object.entries(this.picture.marks)) {
      mark.places.forEach(([x, y], face) => drawMark(context, kind, ...this.screen(x, y), face ? 4 : 8, look));
      if (mark.arrow) {
        const line = [this.screen(...mark.places[0]), this.screen(...mark.arrow)];
        drawLine(context, line, look[kind], look.halo, 7);
      }
    }
    this.drawHovered(context);
  }

  drawSensors(context) {
    const { codes, colours, look, flags } = this.picture, scale = this.scale, crossed = [], ringed = [];
    let last = null;
    for (let i = 0; i < N_SENSORS; i++) {
      const code = codes[i], [x, y] = this.place(i), r = scale * this.sensors.radius(i);
      if (code === NOT_READ) crossed.push([x, y, r]);
      if (flags[i]) ringed.push([x, y, r]);
      const colour = code < 0 ? look.unlit : colours[code];
      if (colour !== last) context.fillStyle = last = colour;
      if (this.sensors.isSipm(i)) {
        context.fillRect(x - r, y - r, 2 * r, 2 * r);
      } else {
        context.beginPath();
        context.arc(x, y, r, 0, 2 * Math.PI);
        context.fill();
      }
    }
    this.strokes(context, crossed, look.unread, 1, ([x, y, r]) => {
      const s = 0.7 * r;
      context.moveTo(x - s, y - s), context.lineTo(x + s, y + s), context.moveTo(x - s, y + s), context.lineTo(x + s, y - s);
    });
    this.strokes(context, ringed, look.filled, 1.5, ([x, y, r]) => context.rect(x - r, y - r, 2 * r, 2 * r));
  }

  strokes(context, places, colour, width, trace) {
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    places.forEach(trace);
    context.stroke();
  }

  /** Directions of u and v, 20 cm long. */
  drawFrame(context) {
    const { look } = this.picture, corner = [this.left + 6, this.bottom + 14], length = 20;
    context.fillStyle = look.faint;
    for (const [name, x, y] of [["u", length, 0], ["v", 0, length]]) {
      const line = [this.screen(...corner), this.screen(corner[0] + x, corner[1] + y)];
      drawLine(context, line, look.faint, look.ground, 6);
      context.fillText(name, ...this.screen(corner[0] + 1.2 * x, corner[1] + 1.2 * y - 1.5));
    }
    const [x, y] = this.screen(corner[0] + length / 2, corner[1]);
    context.fillText(`${length} cm`, x, y + 14);
  }

  drawHovered(context) {
    const { hovered, look } = this.picture;
    if (hovered < 0) return;
    const r = Math.max(this.scale * this.sensors.radius(hovered) * 1.5, 6), [x, y] = this.place(hovered);
    this.strokes(context, [[x, y]], look.halo, 5, () => context.rect(x - r, y - r, 2 * r, 2 * r));
    this.strokes(context, [[x, y]], look.text, 2, () => context.rect(x - r, y - r, 2 * r, 2 * r));
  }
}
