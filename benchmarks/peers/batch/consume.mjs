// The consumer of batch_peer.py, for Node.js: amqplib and pg.
import { readFileSync } from "node:fs";
import amqp from "amqplib";
import pg from "pg";

const PREFETCH = 1000;
const queues = process.argv.slice(2);
const [attemptsText, branchesText, runsText] = ["attempts", "branches", "runs"].map((name) =>
  readFileSync(new URL(`${name}.sql`, import.meta.url), "utf8"),
);

const byBranch = (one, other) => one[0] - other[0];
const columns = (rows) => rows[0].map((_, place) => rows.map((row) => row[place]));

// The statements of a batch, in order, each with its rows.
function rowsOf(batch) {
  const attempts = new Map();
  const branches = new Map();
  const runs = new Map();
  for (const message of batch) {
    const { type, time, data } = JSON.parse(message.content);
    const { branch_id, started_at } = data;
    if (type === "script.run") {
      const run = [data.name, data.hostname, started_at, data.completed_at];
      runs.set(run.join(), run);
      continue;
    }
    let branch = branches.get(branch_id);
    if (!branch) branches.set(branch_id, (branch = [branch_id, null, null, null, 0, null]));
    branch[1] = started_at;
    const attempt = [branch_id, started_at, null, null, null, null];
    attempts.set(`${branch_id} ${started_at}`, attempt);
    if (type === "mirror.completed") {
      attempt.splice(2, 3, time, "completed", data.revision_id);
      branch.splice(2, 4, started_at, data.revision_id, 0, null);
    } else if (type === "mirror.failed") {
      attempt.splice(2, 4, time, "failed", null, data.reason);
      branch.splice(4, 2, branch[4] + 1, data.reason);
    }
  }
  return [
    { name: "attempts", text: attemptsText, rows: [...attempts.values()].sort(byBranch) },
    { name: "branches", text: branchesText, rows: [...branches.values()].sort(byBranch) },
    { name: "runs", text: runsText, rows: [...runs.values()] },
  ];
}

async function commit(pool, batch) {
  const client = await pool.connect();
  try {
    await client.query("BEGIN");
    for (const { name, text, rows } of rowsOf(batch)) {
      if (rows.length) await client.query({ name, text, values: columns(rows) });
    }
    await client.query("COMMIT");
  } finally {
    client.release();
  }
}

async function consume(broker, pool, queue) {
  const channel = await broker.createChannel();
  await channel.prefetch(PREFETCH);
  let inbox = [];
  let wake = () => {};
  await channel.consume(queue, (message) => {
    inbox.push(message);
    wake();
  });
  for (;;) {
    if (!inbox.length) await new Promise((resolve) => (wake = resolve));
    const batch = inbox;
    inbox = [];
    await commit(pool, batch);
    channel.ack(batch.at(-1), true);
  }
}

process.on("SIGTERM", () => process.exit(0));
const broker = await amqp.connect(process.env.MIRRORFEED_AMQP_URL);
const pool = new pg.Pool({
  connectionString: process.env.MIRRORFEED_DATABASE_URL,
  max: queues.length,
});
await Promise.all(queues.map((queue) => consume(broker, pool, queue)));
