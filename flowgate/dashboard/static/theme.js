// Before anything is drawn, so that nothing flashes in the other colours.
"use strict";
{
  let chosen = "";
  try {
    chosen = localStorage.getItem("flowgate-theme") || "";
  } catch {
    chosen = ""; // a browser that keeps nothing
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
}
