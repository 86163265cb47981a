// Unpacks the figures of a study report and draws them.
(() => {
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
