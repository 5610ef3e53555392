// Builds elements. Text always becomes a text node, never markup.

type Child = Node | string | number | null | undefined | false;
type Props = Record<string, string | number | boolean | ((event: any) => void) | undefined>;

/** An element with attributes, listeners (`onclick`, …) and children. `class` and all others are attributes. */
export function h<K extends keyof HTMLElementTagNameMap>(tag: K, props: Props = {}, ...children: Child[]): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  apply(element, props);
  append(element, children);
  return element;
}

/** The same for SVG. */
export function svg<K extends keyof SVGElementTagNameMap>(tag: K, props: Props = {}, ...children: Child[]): SVGElementTagNameMap[K] {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  apply(element, props);
  append(element, children);
  return element;
}

function apply(element: Element, props: Props): void {
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === false) continue;
    if (typeof value === "function") element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
}

function append(element: Element, children: Child[]): void {
  for (const child of children) {
    if (child === null || child === undefined || child === false) continue;
    element.append(child instanceof Node ? child : String(child));
  }
}

/** Sets a text if it is another one, so that a screen reader is not told again what it knows. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

/** One column of a {@link Table}. */
export interface Column<T> {
  title: string;
  /** Numbers stand on the right, with figures of one width. */
  numeric?: boolean;
  /** The text of a cell. */
  text?: (row: T) => string;
  /** The class of a cell, such as `bad`. */
  tone?: (row: T) => string;
  /** Makes the content of a cell once for each row, such as a button. `row` returns the newest data. */
  make?: (row: () => T) => Node;
}

/** A table with more columns than this shows the cells of a row below each other on a phone. */
const COLUMNS_OF_PHONE = 2;

/**
 * A table whose rows keep their place in the document while their data changes: focus and selection stay.
 *
 * The roles say what the elements are by themselves, because some browsers forget it when a style sheet stacks the cells.
 */
export class Table<T> {
  readonly element: HTMLElement;
  readonly #body: HTMLTableSectionElement;
  readonly #empty: HTMLElement;
  readonly #rows = new Map<string, { data: T; row: HTMLTableRowElement }>();

  constructor(readonly caption: string, readonly columns: Column<T>[], readonly key: (row: T) => string, empty: string) {
    const heads = columns.map(({ title, numeric }) => h("th", { scope: "col", role: "columnheader", class: numeric ? "number" : undefined }, title));
    this.#body = h("tbody", { role: "rowgroup" });
    this.#empty = h("p", { class: "empty" }, empty);
    this.element = h("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: 0 },
      h("table", { role: "table", class: columns.length > COLUMNS_OF_PHONE ? "stacks" : undefined },
        h("caption", { class: "hidden" }, caption), h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...heads)), this.#body), this.#empty);
  }

  update(rows: T[]): void {
    const wanted = new Set(rows.map(this.key));
    for (const [key, { row }] of this.#rows) {
      if (wanted.has(key)) continue;
      row.remove();
      this.#rows.delete(key);
    }
    rows.forEach((data, index) => {
      const key = this.key(data);
      let entry = this.#rows.get(key);
      if (!entry) {
        const made = { data, row: h("tr", { role: "row" }) };
        for (const { title, numeric, make } of this.columns) {
          made.row.append(h("td", { role: "cell", "data-title": title, class: numeric ? "number" : undefined }, make?.(() => made.data)));
        }
        this.#rows.set(key, made);
        entry = made;
      }
      entry.data = data;
      this.columns.forEach(({ text, tone, numeric }, at) => {
        const cell = entry.row.cells[at];
        if (!cell || !text) return;
        setText(cell, text(data));
        if (tone) cell.className = `${numeric ? "number " : ""}${tone(data)}`;
      });
      const there = this.#body.rows[index];
      if (there !== entry.row) this.#body.insertBefore(entry.row, there ?? null);
    });
    this.#empty.hidden = rows.length > 0;
  }
}

/** A section with a heading. */
export function section(title: string, ...children: Child[]): HTMLElement {
  const id = `s-${title.toLowerCase().replace(/[^a-z]+/g, "-")}`;
  return h("section", { "aria-labelledby": id }, h("h2", { id }, title), ...children);
}
