// A click on a column's name sorts its table by it: numbers by value, text by alphabet, what has no value last.
for (const header of document.querySelectorAll(".table thead th")) {
  header.querySelector("button").addEventListener("click", () => {
    const index = header.cellIndex;
    const isNumber = header.classList.contains("number");
    const direction = header.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    const key = (row) => (isNumber ? row.cells[index].dataset.key : row.cells[index].textContent);
    const compare = (a, b) => (isNumber ? toNumber(a) - toNumber(b) : a.localeCompare(b, "en", { numeric: true }));
    const body = header.closest("table").tBodies[0];
    const rows = [...body.rows];
    rows.sort((a, b) => {
      const [x, y] = [key(a), key(b)];
      if (!x || !y) return Number(!x) - Number(!y);
      return direction * compare(x, y) || 0; // infinity - infinity is no number
    });
    for (const other of header.parentElement.cells) other.removeAttribute("aria-sort");
    header.setAttribute("aria-sort", direction === 1 ? "ascending" : "descending");
    body.append(...rows);
  });
}

// Python writes infinity in its own way.
function toNumber(key) {
  return Number(key.replace("inf", "Infinity"));
}
