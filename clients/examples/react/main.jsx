// A React page: the state of the connection, prices and a table of records.
import { createClient } from "@tickgate/client";
import { TickgateProvider, useChannel, useConnection, useRecords } from "@tickgate/react";
import { StrictMode, useState } from "react";
import { createRoot } from "react-dom/client";

function State() {
  const { state, reason } = useConnection();
  return <p id="state">{reason ? `${state}: ${reason}` : state}</p>;
}

function Price({ symbol }) {
  const { data, isReady, error } = useChannel(`market.${symbol}.price`, { maxRate: 10 });
  if (error) return <p>{error.message}</p>;
  return <p id="price">{symbol}: {data ? data.price : isReady ? "no price yet" : "…"}</p>;
}

function Board() {
  const { records } = useRecords("board.*.prices", "code");
  return (
    <table>
      <tbody id="board">
        {[...records.values()].map(({ code, price }) => <tr key={code}><td>{code}</td><td>{price}</td></tr>)}
      </tbody>
    </table>
  );
}

function App() {
  const [symbol, setSymbol] = useState("BTC");
  const [clicks, setClicks] = useState(0);
  return (
    <>
      <State />
      <Price symbol={symbol} />
      <Price symbol={symbol} />
      <Board />
      <button id="other" onClick={() => setSymbol("ETH")}>Another symbol</button>
      <button id="redraw" onClick={() => setClicks(clicks + 1)}>Drawn again {clicks} times</button>
    </>
  );
}

const [, url, token] = location.hash.split("#");
const client = createClient({ url, token });
client.connect().catch((error) => console.error(error.message));
createRoot(document.querySelector("#root")).render(
  <StrictMode>
    <TickgateProvider client={client}><App /></TickgateProvider>
  </StrictMode>,
);
