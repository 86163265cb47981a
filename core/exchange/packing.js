"use strict";
// Shared by the scripts of capsules and reports: chart options, error messages and unpacking.
// showSendToCloud would add a button that uploads the chart to a Plotly server.
const CONFIG = {
  displaylogo: false, responsive: true, showSendToCloud: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "zoomIn2d", "zoomOut2d"],
};
const byId = (id) => document.getElementById(id);

function report(message) {
  byId("problem").textContent = message;
  byId("problem").hidden = false;
}

async function unpack(id) {
  const bytes = Uint8Array.from(atob(byId(id).textContent), (character) => character.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}
