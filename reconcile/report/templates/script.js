// Sorts and filters the tables. Without this script the page is whole, in its first order.
(() => {
  "use strict";
  const body = document.body;
  const language = document.documentElement.lang;
  const collator = new Intl.Collator(language, { numeric: true });

  const key = (row, column) => {
    const cell = row.cells[column];
    return cell.dataset.v === undefined ? cell.textContent.trim() : cell.dataset.v;
  };

  const sort = (table, column, heading, numeric) => {
    const descending = heading.getAttribute("aria-sort") === (numeric ? "none" : "ascending")
      || (numeric && heading.getAttribute("aria-sort") === "ascending");
    const sign = descending ? -1 : 1;
    const compare = numeric ? (a, b) => Number(a) - Number(b) : collator.compare;
    const rows = Array.from(table.tBodies[0].rows).map((row, place) => ({ row, place, key: key(row, column) }));
    rows.sort((a, b) => {
      const last = Number(a.row.hasAttribute("data-last")) - Number(b.row.hasAttribute("data-last"));
      if (last) return last;
      if ((a.key === "") !== (b.key === "")) return a.key === "" ? 1 : -1;
      return sign * compare(a.key, b.key) || a.place - b.place;
    });
    table.tBodies[0].append(...rows.map((entry) => entry.row));
    for (const other of table.querySelectorAll("th[aria-sort]")) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", descending ? "descending" : "ascending");
  };

  for (const table of document.querySelectorAll("table.sortable")) {
    const headings = table.tHead.rows[table.tHead.rows.length - 1].cells;
    Array.from(headings).forEach((heading, column) => {
      if (heading.dataset.sort === undefined) return;
      const button = document.createElement("button");
      button.type = "button";
      button.append(...heading.childNodes);
      heading.append(button);
      heading.setAttribute("aria-sort", "none");
      button.addEventListener("click", () => sort(table, column, heading, heading.dataset.sort === "n"));
    });
  }

  const filters = new Map();
  for (const tools of document.querySelectorAll(".tools")) {
    const table = document.getElementById(tools.dataset.for);
    const rows = Array.from(table.tBodies[0].rows);
    const input = document.createElement("input");
    input.type = "search";
    input.placeholder = body.dataset.filter;
    input.setAttribute("aria-label", tools.dataset.label);
    tools.append(input);
    const select = document.createElement("select");
    const names = new Map(rows.filter((row) => row.dataset.c).map((row) => [row.dataset.c, row.cells[0].textContent.trim()]));
    if (names.size) {
      select.setAttribute("aria-label", body.dataset.allClasses);
      select.append(new Option(body.dataset.allClasses, ""), ...Array.from(names, ([value, label]) => new Option(label, value)));
      tools.append(select);
    }
    const shown = document.createElement("output");
    tools.append(shown);
    const apply = () => {
      const wanted = input.value.trim().toLocaleLowerCase(language);
      let count = 0;
      for (const row of rows) {
        const keep = (!select.value || row.dataset.c === select.value)
          && (!wanted || row.textContent.toLocaleLowerCase(language).includes(wanted));
        row.hidden = !keep;
        if (keep) count += 1;
      }
      shown.value = body.dataset.shown.replace("{count}", count.toLocaleString(language));
    };
    input.addEventListener("input", apply);
    select.addEventListener("change", apply);
    filters.set(table.id, { select, input, apply });
    tools.hidden = false;
    apply();
  }

  for (const link of document.querySelectorAll("a[data-class]")) {
    link.addEventListener("click", () => {
      const filter = filters.get("t-discrepancies");
      filter.input.value = "";
      filter.select.value = link.dataset.class;
      filter.apply();
    });
  }
})();
