export function h(tag, props = {}, ...children) {
    const element = document.createElement(tag);
    apply(element, props);
    append(element, children);
    return element;
}
export function svg(tag, props = {}, ...children) {
    const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
    apply(element, props);
    append(element, children);
    return element;
}
function apply(element, props) {
    for (const [name, value] of Object.entries(props)) {
        if (value === undefined || value === false)
            continue;
        if (typeof value === "function")
            element.addEventListener(name.slice(2), value);
        else
            element.setAttribute(name, value === true ? "" : String(value));
    }
}
function append(element, children) {
    for (const child of children) {
        if (child === null || child === undefined || child === false)
            continue;
        element.append(child instanceof Node ? child : String(child));
    }
}
export function setText(element, text) {
    if (element.textContent !== text)
        element.textContent = text;
}
const COLUMNS_OF_PHONE = 2;
export class Table {
    caption;
    columns;
    key;
    element;
    #body;
    #empty;
    #rows = new Map();
    constructor(caption, columns, key, empty) {
        this.caption = caption;
        this.columns = columns;
        this.key = key;
        const heads = columns.map(({ title, numeric }) => h("th", { scope: "col", role: "columnheader", class: numeric ? "number" : undefined }, title));
        this.#body = h("tbody", { role: "rowgroup" });
        this.#empty = h("p", { class: "empty" }, empty);
        this.element = h("div", { class: "scroll", role: "region", "aria-label": caption, tabindex: 0 }, h("table", { role: "table", class: columns.length > COLUMNS_OF_PHONE ? "stacks" : undefined }, h("caption", { class: "hidden" }, caption), h("thead", { role: "rowgroup" }, h("tr", { role: "row" }, ...heads)), this.#body), this.#empty);
    }
    update(rows) {
        const wanted = new Set(rows.map(this.key));
        for (const [key, { row }] of this.#rows) {
            if (wanted.has(key))
                continue;
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
                if (!cell || !text)
                    return;
                setText(cell, text(data));
                if (tone)
                    cell.className = `${numeric ? "number " : ""}${tone(data)}`;
            });
            const there = this.#body.rows[index];
            if (there !== entry.row)
                this.#body.insertBefore(entry.row, there ?? null);
        });
        this.#empty.hidden = rows.length > 0;
    }
}
export function section(title, ...children) {
    const id = `s-${title.toLowerCase().replace(/[^a-z]+/g, "-")}`;
    return h("section", { "aria-labelledby": id }, h("h2", { id }, title), ...children);
}
