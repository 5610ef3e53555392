// A backend for commands.rs: Node's standard library only. Arguments: port, journal.
// Every command it takes is written to the journal before anything else, so that a command taken twice shows.
const { appendFileSync } = require("node:fs");
const { createServer } = require("node:http");

const [port, journal] = process.argv.slice(2);

createServer(async (request, response) => {
  const chunks = [];
  for await (const chunk of request) chunks.push(chunk);
  const { id, client_id, action, params } = JSON.parse(Buffer.concat(chunks));
  appendFileSync(journal, `${client_id} ${id}\n`);
  const answer = (status, body) => {
    response.writeHead(status, { "Content-Type": "application/json" });
    response.end(body);
  };
  if (action === "test.delay") await new Promise((resolve) => setTimeout(resolve, params.ms));
  if (action === "test.fail") return answer(500, "{}");
  if (action === "test.garbage") return answer(200, "<html></html>");
  if (action === "test.refuse") return answer(200, '{"success":false,"error":{"code":"VALIDATION_ERROR","message":"no"}}');
  answer(200, JSON.stringify({ success: true, data: params }));
}).listen(port, "127.0.0.1");
