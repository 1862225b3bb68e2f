// Builds the sandtrace template on E2B, from e2b.Dockerfile.
//
//     scripts/build-static
//     npm install --prefix template
//     E2B_API_KEY=e2b_... npm run --prefix template build
//
// `npm run --prefix template build -- --dry-run` prints the steps and their hashes instead; that needs neither a key nor
// a network. To build on top of this template, import `template` from here and go on with E2B's builder:
// `template().aptInstall('ripgrep')`.

import { existsSync, realpathSync } from 'node:fs'
import { dirname, join } from 'node:path'
import process from 'node:process'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { Template, defaultBuildLogger } from 'e2b'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const binary = join(root, 'template/dist/sandtrace')

const usage = `usage: template.ts [NAME] [--cpus N] [--memory-mb N] [--skip-cache] [--dry-run]

Build the sandtrace template on E2B.

  NAME           name or name:tag (default: sandtrace-agent)
  --cpus N       CPUs of each sandbox (default: 2)
  --memory-mb N  memory of each sandbox (default: 4096)
  --skip-cache   build every step anew
  --dry-run      print what would be built, as JSON`

function fail(message: string): never {
  console.error(`template.ts: ${message}`)
  process.exit(1)
}

export function template() {
  if (!existsSync(binary)) {
    fail(`${binary} is missing: build it with scripts/build-static, then start this again`)
  }
  // The paths after COPY are relative to the root of the repository.
  return Template({ fileContextPath: root }).fromDockerfile(join(root, 'e2b.Dockerfile'))
}

function command() {
  try {
    return parseArgs({
      allowPositionals: true,
      options: {
        cpus: { type: 'string', default: '2' },
        'memory-mb': { type: 'string', default: '4096' },
        'skip-cache': { type: 'boolean', default: false },
        'dry-run': { type: 'boolean', default: false },
        help: { type: 'boolean', short: 'h', default: false },
      },
    })
  } catch (error) {
    return fail(`${error instanceof Error ? error.message : error}\n${usage}`)
  }
}

function count(option: string, text: string): number {
  return /^[1-9][0-9]*$/.test(text) ? Number(text) : fail(`${option} takes a number above 0, not ${text}`)
}

async function main() {
  const { values, positionals } = command()
  const [name = 'sandtrace-agent', ...rest] = positionals
  if (values.help) return console.log(usage)
  if (rest.length > 0) fail(`one name is enough\n${usage}`)
  const cpuCount = count('--cpus', values.cpus)
  const memoryMB = count('--memory-mb', values['memory-mb'])

  const built = template()
  if (values['dry-run']) return console.log(await Template.toJSON(built))
  if (!process.env.E2B_API_KEY) {
    fail('E2B_API_KEY is not set: take a key from your E2B dashboard, or use --dry-run')
  }
  const info = await Template.build(built, name, {
    cpuCount,
    memoryMB,
    skipCache: values['skip-cache'],
    onBuildLogs: defaultBuildLogger(),
  })
  console.log(`${info.name}: template ${info.templateId}, build ${info.buildId}`)
}

// Started, not imported.
if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) await main()
