// Unpacks the data of a run capsule, draws its charts and lists its answers. Text is only set as textContent.
(() => {
  const PAGE_SIZE = 20;
  async function drawCharts() {
    const { figure, templates, font } = JSON.parse(await unpack("figure-data"));
    const script = document.createElement("script");
    script.textContent = await unpack("plotly-data");
    document.head.append(script);
    for (const template of Object.values(templates)) template.layout.font.family = font;
    const dark = matchMedia("(prefers-color-scheme: dark)");
    const logScale = byId("log-scale");
    const layout = figure.layout;
    const draw = () => {
      const yaxis = { ...layout.yaxis, type: logScale.checked ? "log" : "linear" };
      const template = dark.matches ? templates.dark : templates.light;
      // The cursor has an outline in this color; on a transparent background, it would be white.
      template.layout.plot_bgcolor = getComputedStyle(document.body).backgroundColor;
      return Plotly.react("figure", figure.data, { ...layout, yaxis, template }, CONFIG);
    };
    dark.addEventListener("change", draw);
    logScale.addEventListener("change", draw);
    byId("figure").style.height = `${layout.height}px`;  // Plotly forgets it when the window is resized
    await draw();
  }

  function element(tag, text, className) {
    const created = document.createElement(tag);
    if (text !== undefined) created.textContent = text;
    if (className) created.className = className;
    return created;
  }

  function answerElement(row, judges) {
    const article = element("article");
    article.append(element("h3", row.instruction));
    if (row.input) article.append(element("p", row.input, "input"));
    const badges = element("div", undefined, "badges");
    badges.append(element("span", `#${row.item}`, "chip"));
    badges.append(element("span", row.exact ? "exact" : "not exact", row.exact ? "chip is-exact" : "chip"));
    if (row.cut) badges.append(element("span", "cut off at the length limit", "chip"));
    row.scores.forEach((score, i) => {
      badges.append(element("span", `${judges[i]}: ${score === null ? "\u2014" : score.toFixed(1)}`, "chip"));
    });
    const answers = element("div", undefined, "answers");
    const parts = [["Answer", row.answer], ["Reference", row.reference], ["Pretrained model", row.pretrained]];
    for (const [title, text] of parts) {
      if (text === null) continue;
      const part = element("div");
      part.append(element("h4", title), element("p", text.trim() || "(empty)"));
      answers.append(part);
    }
    article.append(answers, badges);
    return article;
  }

  async function listAnswers() {
    const { rows, judges } = JSON.parse(await unpack("answer-data"));
    const search = byId("search"), filter = byId("filter"), sort = byId("sort");
    const filters = { all: () => true, exact: (row) => row.exact, differing: (row) => !row.exact, cut: (row) => row.cut };
    judges.forEach((judge, i) => {
      const option = element("option", `lowest score: ${judge}`);
      option.value = String(i);
      sort.append(option);
    });
    for (const row of rows) {
      row.words = [row.instruction, row.input, row.reference, row.answer].join("\n").toLowerCase();
    }
    let page = 0;
    const show = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const found = rows.filter((row) => filters[filter.value](row) && words.every((word) => row.words.includes(word)));
      if (sort.value !== "item") {
        const judge = Number(sort.value);
        const score = (row) => row.scores[judge] ?? Infinity;
        found.sort((a, b) => score(a) - score(b) || a.item - b.item);
      }
      page = Math.max(0, Math.min(page, Math.ceil(found.length / PAGE_SIZE) - 1));
      const start = page * PAGE_SIZE, shown = found.slice(start, start + PAGE_SIZE);
      const total = found.length.toLocaleString("en");
      byId("count").textContent = shown.length ? `${start + 1} to ${start + shown.length} of ${total}` : "No answers found";
      byId("previous").disabled = page === 0;
      byId("next").disabled = start + PAGE_SIZE >= found.length;
      byId("answer-list").replaceChildren(...shown.map((row) => answerElement(row, judges)));
    };
    const turn = (pages) => {
      page += pages;
      show();
      byId("answers").scrollIntoView();
    };
    const restart = () => {
      page = 0;
      show();
    };
    search.addEventListener("input", restart);
    filter.addEventListener("change", restart);
    sort.addEventListener("change", restart);
    byId("previous").addEventListener("click", () => turn(-1));
    byId("next").addEventListener("click", () => turn(1));
    show();
  }

  function filterSettings() {
    const filter = byId("settings-filter"), rows = [...byId("settings-table").tBodies[0].rows];
    const matches = (choice) => rows.filter((row) => choice === "all" || choice in row.dataset);
    const show = () => {
      const shown = new Set(matches(filter.value));
      for (const row of rows) row.hidden = !shown.has(row);
      byId("no-settings").hidden = shown.size > 0;
    };
    filter.addEventListener("change", show);
    filter.value = ["parent", "default", "all"].find((choice) => matches(choice).length);
    show();
  }

  filterSettings();
  if (!byId("answers") && !byId("figure")) return;
  if (!("DecompressionStream" in window)) {
    report("This browser cannot unpack the charts and answers. Use Firefox 113, Chrome 80, Safari 16.4 or later.");
    return;
  }
  const failed = (what) => (error) => report(`Couldn't show the ${what} (${error.message}).`);
  if (byId("answers")) listAnswers().catch(failed("answers"));
  if (byId("figure")) drawCharts().catch(failed("charts"));
})();
