"use strict";
// Unpacks the figures of a study report and draws them.
(() => {
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

  async function drawCharts() {
    const { figures, templates, font } = JSON.parse(await unpack("figure-data"));
    const script = document.createElement("script");
    script.textContent = await unpack("plotly-data");
    document.head.append(script);
    for (const template of Object.values(templates)) template.layout.font.family = font;
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const draw = async () => {
      const template = dark.matches ? templates.dark : templates.light;
      const page = getComputedStyle(document.body).backgroundColor;
      template.layout.plot_bgcolor = template.layout.paper_bgcolor = page;
      for (const [id, figure] of Object.entries(figures)) {
        byId(id).style.height = `${figure.layout.height}px`;  // Plotly forgets it when the window is resized
        await Plotly.react(id, figure.data, { ...figure.layout, template }, CONFIG);
      }
    };
    dark.addEventListener("change", draw);
    await draw();
  }

  if (!document.querySelector(".figure")) return;
  if (!("DecompressionStream" in window)) {
    report("This browser cannot unpack the charts. Use Firefox 113, Chrome 80, Safari 16.4 or later.");
    return;
  }
  drawCharts().catch((error) => report(`Couldn't show the charts (${error.message}).`));
})();
