// The bars of the likeliest classes: one row each, with a name, a share and a bar of that length.

import { percent } from "./texts.js";

const $ = (id) => document.getElementById(id);

export function showBar({ name, probability }, place) {
  const row = $("bars").children[place] ?? $("bars").appendChild(newBar());
  row.querySelector(".name").textContent = name;
  row.querySelector(".share").textContent = percent(probability);
  row.querySelector(".fill").style.setProperty("--share", probability.toFixed(3));
}

function newBar() {
  const row = document.createElement("li");
  for (const kind of ["name", "share", "track"]) {
    row.appendChild(document.createElement("span")).className = kind;
  }
  row.querySelector(".name").dir = "auto";
  row.querySelector(".track").appendChild(document.createElement("span")).className = "fill";
  return row;
}
