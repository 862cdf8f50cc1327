"use strict";
/*
 * The detector in three dimensions, turned and projected here and painted from the far side to the near one.
 * Sensors whose back is turned to the viewer are left out, so that one looks into the xenon.
 */

const DISTANCE = 420; // of the viewer from the middle of the xenon, cm
const MIDDLE = -66; // x of that middle, cm
const BUCKETS = 512; // of depth, for sorting
const VIEWS = { inner: [-0.45, 0.25], beam: [-1.45, 0.12], outer: [2.6, 0.25] }; // angles about the vertical, and of the height

class DetectorView {
  constructor(canvas, sensors, onHover) {
    Object.assign(this, { canvas, sensors, backs: false, pictures: 0 });
    const n = sensors.start[N_SENSORS];
    this.flat = new Float32Array(2 * n);
    this.order = new Int32Array(N_SENSORS);
    this.centre = new Float32Array(3 * N_SENSORS); // screen x, y and depth towards the viewer
    this.look("inner");
    follow(canvas, {
      hover: (x, y, pressed) => onHover(this.at(x, y), pressed),
      drag: (dx, dy) => this.turn(dx / 150, dy / 150),
      leave: () => onHover(-1),
    });
    canvas.addEventListener("dblclick", () => (this.look("inner"), this.again()));
    canvas.addEventListener("wheel", (e) => {
      e.preventDefault();
      this.zoom = Math.min(12, Math.max(0.5, this.zoom * Math.exp(-e.deltaY / 400)));
      this.again();
    }, { passive: false });
  }

  look(view) {
    [this.yaw, this.pitch] = VIEWS[view];
    this.zoom = 1;
  }

  turn(yaw, pitch) {
    this.yaw += yaw;
    this.pitch = Math.min(1.55, Math.max(-1.55, this.pitch + pitch));
    this.again();
  }

  /** Nine numbers that take (x - MIDDLE, y, z) to the right, up, and towards the viewer. */
  rotation() {
    const [c, s, d, t] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
    // unturned one looks along +x: z to the right, y up, -x towards the viewer
    return [-s, 0, c, c * t, d, s * t, -c * d, t, -s * d];
  }

  /** Screen x, y and depth of a point in space. */
  screen([x, y, z]) {
    const m = this.matrix, a = x - MIDDLE;
    const depth = m[6] * a + m[7] * y + m[8] * z, k = (this.scale * DISTANCE) / (DISTANCE - depth);
    return [this.width / 2 + k * (m[0] * a + m[1] * y + m[2] * z), this.height / 2 - k * (m[3] * a + m[4] * y + m[5] * z), depth];
  }

  /** Project centres and corners, and sort what is seen into `order`, the farthest first. */
  project() {
    const { x, y, z, normal, corners, start } = this.sensors, m = this.matrix, { centre, flat } = this;
    const scale = this.scale * DISTANCE, halfWidth = this.width / 2, halfHeight = this.height / 2;
    const bucket = new Int32Array(BUCKETS + 1), seen = new Int16Array(N_SENSORS).fill(-1);
    for (let i = 0; i < N_SENSORS; i++) {
      const a = x[i] - MIDDLE, b = y[i], c = z[i];
      const right = m[0] * a + m[1] * b + m[2] * c, above = m[3] * a + m[4] * b + m[5] * c, depth = m[6] * a + m[7] * b + m[8] * c;
      const k = scale / (DISTANCE - depth), [p, q, r] = [normal[0][i], normal[1][i], normal[2][i]];
      centre[3 * i] = halfWidth + k * right;
      centre[3 * i + 1] = halfHeight - k * above;
      centre[3 * i + 2] = depth;
      const faces = (m[6] * p + m[7] * q + m[8] * r) * (DISTANCE - depth) - (m[0] * p + m[1] * q + m[2] * r) * right - (m[3] * p + m[4] * q + m[5] * r) * above;
      if (faces <= 0 && !this.backs) continue;
      seen[i] = Math.min(BUCKETS - 1, Math.max(0, Math.floor(((depth + 150) / 300) * BUCKETS)));
      bucket[seen[i] + 1]++;
      for (let j = start[i]; j < start[i + 1]; j++) {
        const u = corners[3 * j] - MIDDLE, v = corners[3 * j + 1], w = corners[3 * j + 2];
        const l = scale / (DISTANCE - (m[6] * u + m[7] * v + m[8] * w));
        flat[2 * j] = halfWidth + l * (m[0] * u + m[1] * v + m[2] * w);
        flat[2 * j + 1] = halfHeight - l * (m[3] * u + m[4] * v + m[5] * w);
      }
    }
    for (let k = 0; k < BUCKETS; k++) bucket[k + 1] += bucket[k];
    this.number = bucket[BUCKETS];
    for (let i = 0; i < N_SENSORS; i++) if (seen[i] >= 0) this.order[bucket[seen[i]]++] = i;
  }

  /** Sensor at a place of the screen, the nearest to the viewer, -1 if there is none. */
  at(px, py) {
    for (let k = this.number - 1; k >= 0; k--) {
      const i = this.order[k];
      if (Math.abs(this.centre[3 * i] - px) + Math.abs(this.centre[3 * i + 1] - py) < 200 && this.covers(i, px, py)) return i;
    }
    return -1;
  }

  /** Whether a sensor's outline, which is convex, holds a place. */
  covers(i, px, py) {
    let sign = 0;
    for (let j = this.sensors.start[i], last = this.sensors.start[i + 1] - 1; j < this.sensors.start[i + 1]; last = j++) {
      const [ax, ay, bx, by] = [this.flat[2 * last], this.flat[2 * last + 1], this.flat[2 * j], this.flat[2 * j + 1]];
      const side = Math.sign((bx - ax) * (py - ay) - (by - ay) * (px - ax));
      if (side && sign && side !== sign) return false;
      sign = side || sign;
    }
    return true;
  }

  /** Place of a sensor on the screen. */
  place(id) {
    return [this.centre[3 * id], this.centre[3 * id + 1]];
  }

  draw(picture) {
    this.picture = picture;
    this.again();
  }

  /** Draw before the browser shows its next picture, however often this is asked for. */
  again() {
    if (!this.picture || this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = 0;
      this.now();
    });
  }

  now() {
    const [context, width, height] = fitted(this.canvas), { look } = this.picture;
    Object.assign(this, { width, height, scale: (this.zoom * Math.min(width, height * 1.15)) / 225, matrix: this.rotation() });
    this.project();
    for (const line of this.sensors.about.outline) this.edge(context, line, look.line);
    this.drawSensors(context);
    this.drawBeam(context);
    for (const [kind, mark] of Object.entries(this.picture.marks)) this.drawTrack(context, kind, mark);
    this.drawHovered(context);
    this.pictures++;
  }

  edge(context, points, colour) {
    context.strokeStyle = colour;
    context.lineWidth = 1;
    context.beginPath();
    points.map((p) => this.screen(p)).forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.stroke();
  }

  drawSensors(context) {
    const { codes, colours, look, flags } = this.picture, { flat } = this, { start } = this.sensors;
    let last = null;
    for (let k = 0; k < this.number; k++) {
      const i = this.order[k], colour = codes[i] < 0 ? look.unlit : colours[codes[i]];
      if (colour !== last) context.fillStyle = last = colour;
      context.beginPath();
      context.moveTo(flat[2 * start[i]], flat[2 * start[i] + 1]);
      for (let j = start[i] + 1; j < start[i + 1]; j++) context.lineTo(flat[2 * j], flat[2 * j + 1]);
      context.fill();
      if (flags[i]) this.ring(context, i, look.filled, 1.5);
    }
  }

  ring(context, i, colour, width) {
    const { flat } = this, { start } = this.sensors;
    context.strokeStyle = colour;
    context.lineWidth = width;
    context.beginPath();
    for (let j = start[i]; j < start[i + 1]; j++) context.lineTo(flat[2 * j], flat[2 * j + 1]);
    context.closePath();
    context.stroke();
  }

  /** The beam axis, and the directions x, y, z at its middle. */
  drawBeam(context) {
    const { look } = this.picture;
    this.edge(context, [[0, 0, -70], [0, 0, 70]], look.faint);
    context.fillStyle = look.faint;
    context.font = "12px system-ui, sans-serif";
    context.textAlign = "center";
    for (const [name, end] of [["x", [22, 0, 0]], ["y", [0, 22, 0]], ["z (beam)", [0, 0, 70]]]) {
      const [a, b] = [this.screen([0, 0, 0]), this.screen(end)];
      drawLine(context, [a.slice(0, 2), b.slice(0, 2)], look.faint, look.ground, 6);
      context.fillText(name, b[0] + 8, b[1] - 6);
    }
  }

  /** The way of the photon: from its vertex through the first interaction, and on. */
  drawTrack(context, kind, mark) {
    const { look } = this.picture, [x, y] = this.screen(mark.xyz);
    if (mark.line) {
      const [a, b] = mark.line.map((p) => this.screen(p).slice(0, 2));
      drawLine(context, [a, [x, y], b], look[kind], look.halo, 7);
      context.fillStyle = look[kind];
      context.beginPath();
      context.arc(...a, 3, 0, 2 * Math.PI);
      context.fill();
    }
    drawMark(context, kind, x, y, 7, look);
  }

  drawHovered(context) {
    const { hovered, look } = this.picture;
    if (hovered < 0) return;
    const [x, y] = this.place(hovered);
    for (const [colour, width] of [[look.halo, 5], [look.text, 2]]) {
      context.strokeStyle = colour;
      context.lineWidth = width;
      context.beginPath();
      context.arc(x, y, 9, 0, 2 * Math.PI);
      context.stroke();
    }
  }
}
