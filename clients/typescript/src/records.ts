/** The fields that identify a record, or the only one of them. */
export type RecordKey = string | readonly string[];

/** Which records are deleted, as the gateway's `record_delete` says. */
export interface RecordDelete {
  /** The member that says it. */
  field: string;
  /** Its values that delete a record. Numbers compare by value, also with texts. Without values, any but `false` and `null`. */
  values?: readonly (string | number | boolean)[];
}

/** How the records of arrays are merged. */
export interface RecordRule {
  key: RecordKey;
  deleted?: RecordDelete | undefined;
}

/** The rule as a text: equal rules have the same. */
export function nameOf(rule: RecordRule): string {
  return JSON.stringify([rule.key, rule.deleted]);
}

/** Puts the records of an event's data into a map. What is no array of records is left out. */
export function merge(records: Map<string, any>, data: unknown, { key, deleted }: RecordRule): void {
  if (!Array.isArray(data) || !data.every((record) => nameOfRecord(record, key) !== undefined)) return;
  for (const record of data) {
    const name = nameOfRecord(record, key)!;
    if (deleted && isDeleted(record, deleted)) records.delete(name);
    else records.set(name, record);
  }
}

function nameOfRecord(record: any, key: RecordKey): string | undefined {
  if (typeof key === "string") return record?.[key] == null ? undefined : String(record[key]);
  const parts = key.map((field) => record?.[field]);
  return parts.some((part) => part == null) ? undefined : JSON.stringify(parts.map(String));
}

function isDeleted(record: any, { field, values }: RecordDelete): boolean {
  const value = record[field];
  if (value == null || value === "") return false;
  if (!values) return value !== false;
  // A number may come as a text or as an object that keeps its digits.
  return values.some((one) => value === one || (typeof one === "number" && typeof value !== "boolean" && Number(value) === one));
}
