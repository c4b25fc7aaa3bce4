const tables = [...document.querySelectorAll(".vq-scroll table")];
for (const table of tables) {
  const heads = [...table.tHead.rows[0].cells], body = table.tBodies[0];
  heads.forEach((head, i) => head.querySelector("button")?.addEventListener("click", () => {
    const up = head.getAttribute("aria-sort") !== "ascending";
    heads.forEach(h => h.setAttribute("aria-sort", "none"));
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const order = (a, b) => {
      const x = a.cells[i].dataset.v, y = b.cells[i].dataset.v, d = Number(x) - Number(y);
      if (x === "" || y === "") return (x === "") - (y === "");
      return (up ? 1 : -1) * (Number.isNaN(d) ? x.localeCompare(y) : d);
    };
    body.append(...[...body.rows].sort(order));
  }));
}
document.querySelector(".filter")?.addEventListener("input", event => {
  const words = event.target.value.toLowerCase().split(/\s+/);
  for (const row of document.querySelectorAll(".vq-scroll tr[data-key]"))
    row.hidden = !words.every(word => row.cells[1].dataset.v.toLowerCase().includes(word));
});
