"use strict";
/* The detector without events: every face in its colour, and what each sensor is called. */

(async () => {
  const element = (id) => document.getElementById(id);
  const content = JSON.parse(element("content").textContent), sensors = await Sensors.unpack(content);
  const names = ["ground", "text", "faint", "line", "unlit", "unread", "filled", "halo"];
  const picture = {
    codes: Int16Array.from(sensors.face), colours: content.face_colours, flags: new Uint8Array(N_SENSORS), marks: {}, hovered: -1,
  };
  let pinned = -1;
  const point = (id, pin = false) => {
    if (pin) pinned = id;
    picture.hovered = id < 0 ? pinned : id;
    views.forEach((view) => view.again());
    element("readout").textContent = picture.hovered < 0 ? "Point at a sensor, in either picture; a click keeps it." : where(picture.hovered);
  };
  const where = (id) => {
    const xyz = [sensors.x[id], sensors.y[id], sensors.z[id]].map((v) => v.toFixed(2)).join(", ");
    return `${sensors.name(id)}: x, y, z = ${xyz} cm, r = ${Math.hypot(sensors.x[id], sensors.y[id]).toFixed(2)} cm`;
  };
  const views = [new UnfoldedView(element("unfolded"), sensors, point), new DetectorView(element("detector"), sensors, point)];
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const draw = () => {
    document.documentElement.className = dark.matches ? "dark" : "light";
    const style = getComputedStyle(document.documentElement);
    picture.look = Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));
    views.forEach((view) => view.draw(picture));
  };
  dark.addEventListener("change", draw);
  new ResizeObserver(draw).observe(document.querySelector(".views"));
  element("sensor").addEventListener("input", (e) => {
    const id = e.target.value === "" ? -1 : Number(e.target.value);
    if (Number.isInteger(id) && id < N_SENSORS) point(id, true);
  });
  draw();
  window.page = { views, picture, point };
})();
