// What the examples of the documentation take for granted.
declare const tg: import("@tickgate/client").Client;
declare const prices: import("@tickgate/client").Subscription<{ price: number }>;
declare const board: import("@tickgate/client").Subscription<any>, mine: typeof board, market: typeof board, orders: typeof board;
declare const url: string, token: string;
declare const root: { render(element: import("react").ReactNode): void };
declare function getToken(): Promise<string>;
declare function reload(channels: readonly string[], complete: boolean): void;
declare function askForTheState(): void;
declare function store(event: import("@tickgate/client").TickEvent): Promise<void>;
declare function report(error: unknown): void;
declare function show(data: unknown): void;
declare function App(): import("react").ReactElement;
declare function Row(props: Stock): import("react").ReactElement;
interface Stock { code: string; price: number }
