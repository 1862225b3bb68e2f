// Drives a real Chromium for scripts/page-check: node page_check.cjs URL PICTURES DIR
"use strict";
const assert = require("node:assert/strict");
const net = require("node:net");
const path = require("node:path");
const { chromium } = require("playwright-core");

const [url, pictures, dir] = process.argv.slice(2);
const PATIENCE = 60_000;

/** Stands between the browser and the server, and cuts what goes through it. */
function wire(port) {
  const open = new Set();
  let down = false;
  const server = net.createServer((near) => {
    if (down) return near.destroy();
    const far = net.connect(port, "127.0.0.1");
    for (const [a, b] of [[near, far], [far, near]]) {
      open.add(a);
      a.pipe(b);
      a.on("error", () => b.destroy());
      a.on("close", () => { open.delete(a); b.destroy(); });
    }
  });
  const cut = () => open.forEach((socket) => socket.destroy());
  return new Promise((resolve) => server.listen(0, "127.0.0.1", () => resolve({
    url: `http://127.0.0.1:${server.address().port}/`,
    cut,
    goDown: () => { down = true; cut(); },
    comeBack: () => { down = false; },
    close: () => { cut(); server.close(); },
  })));
}

/** Every event once, in order, from the first to the last. */
async function seqs(page) {
  const all = await page.locator("#log li").evaluateAll((items) => items.map((item) => Number(item.dataset.seq)));
  assert.ok(all.length > 20, `there are events: ${all.length}`);
  // Those that the server keeps from pages leave gaps; this agent exports nothing, so there are none.
  assert.deepEqual(all, all.map((_, i) => i + 1), "each event once and in order");
  return all;
}

async function startRun(page, prompt) {
  await page.locator("#prompt").fill(prompt);
  await page.getByRole("button", { name: "Start" }).click();
  await page.waitForURL(/#page-/);
}

const picture = (page, name) => page.screenshot({ path: path.join(pictures, `${name}.png`) });

async function main() {
  const line = await wire(Number(new URL(url).port));
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM || "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync"],
  });
  try {
    const context = await browser.newContext({ viewport: { width: 1240, height: 860 }, colorScheme: "light" });
    context.setDefaultTimeout(PATIENCE);
    const page = await context.newPage();
    const complaints = [];
    page.on("pageerror", (error) => complaints.push(String(error)));
    page.on("console", (message) => {
      // A connection that was cut on purpose is an error to the browser.
      if (message.type() === "error" && !/net::ERR_/.test(message.text())) complaints.push(message.text());
    });
    const streams = [];
    page.on("response", (response) => {
      if (response.url().endsWith("/events")) streams.push(response.request());
    });

    await page.goto(line.url);
    await page.getByRole("heading", { name: "Start an agent" }).waitFor();
    await picture(page, "1-start");
    await startRun(page, "Tidy up my notes, and ask before you change anything");

    // It asks, and waits.
    const question = page.getByRole("region", { name: "May it use Bash?" });
    await question.waitFor();
    await page.getByRole("status").filter({ hasText: "Waits for your answer" }).waitFor();
    assert.equal(await page.locator("#connection").textContent(), "live");
    assert.equal(await page.locator(".tool").getAttribute("data-state"), "waiting");
    assert.match(await page.locator(".says").first().textContent(), /^I looked through your notes\..*I ask first\.$/s);
    assert.equal(await page.locator(".says").count(), 1, "what was streamed is not said again");
    assert.equal(await page.locator(".you").textContent(), "Tidy up my notes, and ask before you change anything");
    await page.waitForFunction(() => document.querySelector("#cpu").textContent.includes("%"));
    const trace = await page.locator("#trace-id").textContent();
    assert.match(trace, /^[0-9a-f]{32}$/);
    await picture(page, "2-approval");

    // The connection is cut before the answer, and again, for longer, while the tool runs.
    line.cut();
    await page.waitForFunction(() => document.querySelector("#connection").dataset.state === "lost");
    await page.waitForFunction(() => document.querySelector("#connection").dataset.state === "live");
    await question.getByRole("button", { name: "Approve" }).focus();
    await page.keyboard.press("Enter");
    await page.locator(".approval.settled").filter({ hasText: "Bash approved by page" }).waitFor();
    line.goDown();
    await page.waitForFunction(() => document.querySelector("#connection").dataset.state === "lost");
    await picture(page, "3-reconnecting");
    await new Promise((resolve) => setTimeout(resolve, 2500));
    line.comeBack();
    await page.locator(".says").filter({ hasText: "Done: three notes moved" }).waitFor();
    await page.waitForFunction(() => document.querySelector("#connection").dataset.state === "live");
    const ids = await Promise.all(streams.map(async (request) => (await request.allHeaders())["last-event-id"]));
    assert.ok(streams.length >= 3, `it came back by itself: ${streams.length} streams`);
    assert.ok(ids.slice(1).every((id) => Number(id) > 0), `and said what it had: ${ids}`);
    assert.equal(await page.locator(".tool").getAttribute("data-state"), "done");
    await seqs(page);

    // What the agent writes is text.
    await page.locator("#message").fill("markup");
    await page.keyboard.press("Enter");
    await page.locator(".says").filter({ hasText: "<b>bold</b>" }).waitFor();
    await page.getByRole("status").filter({ hasText: "Waits for your message" }).waitFor();
    assert.ok(!(await page.title()).includes("owned"));
    assert.equal(await page.locator("#timeline img, #timeline b:not(.turn b), #timeline script").count(), 0);

    // A turn that takes long is interrupted, and a tool is denied.
    await page.locator("#message").fill("slowly");
    await page.keyboard.press("Enter");
    await page.locator(".says.streaming").filter({ hasText: "word 9" }).waitFor();
    await picture(page, "4-streaming");
    await page.getByRole("button", { name: "Interrupt" }).click();
    await page.getByRole("status").filter({ hasText: "Waits for your message" }).waitFor();
    await page.locator("#message").fill("once more, please");
    await page.keyboard.press("Enter");
    const again = page.getByRole("region", { name: "May it use Bash?" });
    await again.getByLabel("Reason for denying").fill("not today");
    await again.getByRole("button", { name: "Deny" }).click();
    await page.locator(".approval.settled").filter({ hasText: "Bash denied by page" }).filter({ hasText: "not today" }).waitFor();
    await page.locator(".says").filter({ hasText: "left everything where it was" }).waitFor();

    await page.getByRole("status").filter({ hasText: "Waits for your message" }).waitFor();
    await page.getByRole("button", { name: "Finish" }).click();
    await page.getByRole("heading", { name: "It did what it was asked" }).waitFor();
    const all = await seqs(page);
    assert.equal(await page.locator("#log li").last().locator("span").last().textContent(), "sandtrace.run.finished");
    assert.equal(await page.locator("#connection").textContent(), "over");
    await picture(page, "5-success");
    const before = streams.length;
    await new Promise((resolve) => setTimeout(resolve, 2500));
    assert.equal(streams.length, before, "a run that is over is not asked for again");

    // A page that comes late sees the same run; one in the dark, and on a telephone.
    const late = await browser.newContext({ viewport: { width: 1240, height: 860 }, colorScheme: "dark" });
    late.setDefaultTimeout(PATIENCE);
    const other = await late.newPage();
    await other.goto(page.url());
    await other.getByRole("heading", { name: "It did what it was asked" }).waitFor();
    assert.deepEqual(await seqs(other), all);
    assert.equal(await other.locator("#trace-id").textContent(), trace);
    await picture(other, "6-dark");

    // A run that fails says why, with evidence.
    await other.goto(line.url);
    await startRun(other, "fail");
    await other.getByRole("heading", { name: "It failed" }).waitFor();
    await other.locator("#outcome").filter({ hasText: "crash.exception" }).filter({ hasText: "the disk is on fire" }).waitFor();
    assert.ok((await other.locator("#outcome li").count()) > 0, "there is evidence");
    await seqs(other);
    await picture(other, "7-failure");

    await page.setViewportSize({ width: 390, height: 800 });
    await page.goto(line.url);
    await startRun(page, "Tidy up");
    await page.getByRole("region", { name: "May it use Bash?" }).waitFor();
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    assert.ok(wide <= 0, `nothing hangs over the edge of a telephone: ${wide}`);
    await picture(page, "8-telephone");
    await page.getByRole("button", { name: "Cancel run" }).click();
    await page.getByRole("heading", { name: "It was cancelled" }).waitFor();

    // A page of another site is refused.
    for (const [method, headers] of [["GET", { host: "evil.example" }], ["POST", { origin: "http://evil.example" }], ["POST", {}]]) {
      assert.equal(await ask(method, headers), 403, `${method} ${JSON.stringify(headers)}`);
    }
    assert.deepEqual(complaints, []);
    console.log(`  ${all.length} events over ${before} streams, each once`);
  } finally {
    await browser.close();
    line.close();
  }
}

/** By hand: fetch would not send these headers. */
function ask(method, headers) {
  const { hostname, port } = new URL(url);
  return new Promise((resolve, reject) => {
    const request = require("node:http").request({ hostname, port, method, path: method === "GET" ? "/" : "/runs",
      headers: { "content-type": "application/json", ...headers } }, (answer) => {
      answer.resume();
      resolve(answer.statusCode);
    });
    request.on("error", reject);
    request.end(method === "POST" ? JSON.stringify({ prompt: "x" }) : undefined);
  });
}

main().catch((error) => {
  console.error(error);
  process.exitCode = 1;
});
