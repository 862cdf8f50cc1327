"use strict";
// the page is whole without this: it only adds a choice between light and dark, and opens what is folded for printing
(() => {
  const names = ["system", "light", "dark"];
  const button = document.getElementById("theme");
  let chosen = 0;
  button.hidden = false;
  button.addEventListener("click", () => {
    chosen = (chosen + 1) % names.length;
    document.documentElement.className = chosen ? names[chosen] : "";
    button.textContent = `Theme: ${names[chosen]}`;
  });
  let opened = [];
  window.addEventListener("beforeprint", () => {
    // the recipe is long, and a file of its own
    opened = [...document.querySelectorAll("details:not([open])")].filter((part) => !part.querySelector("pre"));
    opened.forEach((part) => { part.open = true; });
  });
  window.addEventListener("afterprint", () => opened.forEach((part) => { part.open = false; }));
})();
