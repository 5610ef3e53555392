/** Calls listeners by name. A listener that throws disturbs neither the others nor the client. */
export class Emitter<Events extends object> {
  readonly #listeners = new Map<keyof Events, Set<(value: any) => void>>();
  readonly #report: (error: unknown) => void;

  constructor(report: (error: unknown) => void) {
    this.#report = report;
  }

  /** Adds a listener; the returned function removes it. */
  on<Name extends keyof Events>(name: Name, listener: (value: Events[Name]) => void): () => void {
    let listeners = this.#listeners.get(name);
    if (!listeners) this.#listeners.set(name, (listeners = new Set()));
    // A function of its own, so that the same listener may be added twice.
    const entry = (value: Events[Name]): void => listener(value);
    listeners.add(entry);
    return () => void listeners.delete(entry);
  }

  emit<Name extends keyof Events>(name: Name, value: Events[Name]): void {
    for (const listener of [...(this.#listeners.get(name) ?? [])]) {
      try {
        listener(value);
      } catch (error) {
        this.#report(error);
      }
    }
  }
}
