// Plays one scene with E2B's unmodified SDK and the programs of docs/javascript.md, and prints what a user sees as JSON.
//
//     node drive.js SCENE
//
// tests/client/sdks.rs compiles and runs it, and says where the sandbox is: E2B_DEBUG and E2B_SANDBOX_URL. drive.py is its
// twin.
import { context, propagation, trace } from '@opentelemetry/api'
import { AsyncLocalStorageContextManager } from '@opentelemetry/context-async-hooks'
import { W3CTraceContextPropagator } from '@opentelemetry/core'
import { CommandExitError, Sandbox } from 'e2b'
import { converse } from './approve.js'
import { followAgent } from './follow-agent.js'
import { AGENT, environment, quote } from './run-agent.js'
import { type Event, Events, is } from './sandtrace-events.js'

const PROMPT = "Do 'the' thing."
const PARENT = { traceId: '0af7651916cd43dd8448eb211c80319c', spanId: 'b7ad6b7169203331', traceFlags: 1 }

const facts: Record<string, unknown> & { events: Event[] } = { events: [], exception: null, exit_code: null }
const sandbox = await Sandbox.create()

function note(event: Event): void {
  facts.events.push(event)
}

/** commands.run, and what becomes of it. */
async function run(command: string, timeoutMs = 0, reaction: (event: Event) => void | Promise<void> = note) {
  const events = new Events()
  try {
    await sandbox.commands.run(command, {
      envs,
      timeoutMs,
      onStdout: async (text) => {
        for (const event of events.feed(text)) await reaction(event)
      },
    })
    facts.exit_code = 0
  } catch (error) {
    if (!(error instanceof Error)) throw error
    facts.exception = error.name
    if (error instanceof CommandExitError) facts.exit_code = error.exitCode
    else facts.message = error.message
  }
}

/** Once, when the agent's first tool begins. */
function atFirstTool(reaction: () => Promise<unknown>): (event: Event) => Promise<void> {
  let waiting = true
  return async (event) => {
    note(event)
    const data = event.data as { name?: string } | undefined
    if (waiting && event.type === 'sandtrace.span.started' && data?.name === 'execute_tool Bash') {
      waiting = false
      await reaction()
    }
  }
}

function agentPid(): number | null {
  const started = facts.events[0]
  if (!started || !is(started, 'sandtrace.run.started')) throw new Error('the first event is another')
  return started.data.pid
}

const agent = `${AGENT} --tools Bash ${quote(PROMPT)}`

const scenes: Record<string, () => Promise<void>> = {
  // No sandbox: the same lines in many pieces, with what else a stream may hold.
  pieces: async () => {
    const line = (seq: number) =>
      JSON.stringify({ type: 'text', data: { text: '\u00e9\u20ac' }, sandtrace: { seq } })
    const lines = ['Welcome!', line(1), line(2), '{"type":"no stamp"}', '[3]', '17', 'null', '{', line(2), line(1), line(3)]
    const stream = lines.join('\n') + '\n' + line(4).slice(0, 20)
    const all: number[][] = []
    for (const size of [1, 7, stream.length]) {
      const events = new Events()
      const told: Event[] = []
      for (let at = 0; at < stream.length; at += size) told.push(...events.feed(stream.slice(at, at + size)))
      events.reconnected()
      told.push(...events.feed(line(4) + '\n' + line(5)))
      all.push(told.map((event) => event.sandtrace.seq))
    }
    facts.sequences = all
  },

  failure: () => run(`sandtrace run -- ${AGENT} ${quote(PROMPT)}`),

  kill: () =>
    run(
      `sandtrace run -- ${agent}`,
      0,
      atFirstTool(() => sandbox.commands.run(`kill -9 ${agentPid()}`))
    ),

  stop: () =>
    run(
      `sandtrace run --run-id stopped -- ${agent}`,
      0,
      atFirstTool(() => sandbox.commands.run('sandtrace stop stopped'))
    ),

  timeout: async () => {
    await run(`sandtrace run --run-id limited -- ${agent}`, 4000)
    facts.first = { exception: facts.exception, message: facts.message, events: facts.events }
    facts.events = []
    await run('sandtrace attach limited --after 0')
  },

  follow: async () => {
    await followAgent(sandbox, PROMPT, envs, note)
  },

  lost: async () => {
    let killed = false
    const onEvent = async (event: Event) => {
      note(event)
      if (killed) return
      killed = true
      for (const process of await sandbox.commands.list()) await sandbox.commands.kill(process.pid)
    }
    try {
      await followAgent(sandbox, PROMPT, envs, onEvent)
    } catch (error) {
      facts.exception = 'Lost'
      facts.message = (error as Error).message
    }
  },

  approve: async () => {
    const asked: unknown[] = []
    const allows = async (request: { tool_name: string; input: Record<string, unknown> }) => {
      asked.push([request.tool_name, request.input.command])
      return asked.length === 1
    }
    await converse(sandbox, PROMPT, envs, allows, note)
    facts.asked = asked
  },
}

context.setGlobalContextManager(new AsyncLocalStorageContextManager().enable())
propagation.setGlobalPropagator(new W3CTraceContextPropagator())
const envs = context.with(trace.setSpanContext(context.active(), PARENT), () =>
  environment(new Date(Date.now() + 3_600_000))
)
const scene = scenes[process.argv[2] ?? '']
if (!scene) throw new Error(`no scene ${process.argv[2]}`)
await scene()
process.stdout.write(JSON.stringify(facts))
