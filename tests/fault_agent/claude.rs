//! Lines as the Claude CLI prints them; their shapes are those of `tests/fixtures/recordings`.

use std::time::Duration;
use std::{io, thread};

use crate::Agent;
use crate::script::{Flow, Outcome};

const MODEL: &str = "claude-opus-5-5";
const USAGE: &str = r#"{"input_tokens":12,"cache_creation_input_tokens":300,"cache_read_input_tokens":4000,"output_tokens":1}"#;

impl Agent {
    fn session(&self) -> String {
        format!(
            "00000000-0000-4000-8000-{:012x}",
            self.settings.seed & 0xffff_ffff_ffff
        )
    }

    pub(crate) fn events(&mut self, count: u64) -> Outcome {
        self.init()?;
        for number in 0..count {
            let text = format!(r#"{{"type":"text","text":"This is answer {number}."}}"#);
            self.assistant(&text)?;
        }
        self.result()
    }

    pub(crate) fn init(&mut self) -> Outcome {
        let session = self.session();
        self.line(&format!(
            r#"{{"type":"system","subtype":"init","cwd":"/work","session_id":"{session}","tools":["Bash","Read"],"mcp_servers":[],"model":"{MODEL}","permissionMode":"default","apiKeySource":"ANTHROPIC_API_KEY","claude_code_version":"2.1.327"}}"#
        ))?;
        Ok(Flow::Next)
    }

    fn assistant(&mut self, block: &str) -> io::Result<()> {
        self.messages += 1;
        let (session, number) = (self.session(), self.messages);
        self.line(&format!(
            r#"{{"type":"assistant","message":{{"id":"msg_{number:04}","type":"message","role":"assistant","model":"{MODEL}","content":[{block}],"stop_reason":null,"usage":{USAGE}}},"parent_tool_use_id":null,"session_id":"{session}"}}"#
        ))
    }

    pub(crate) fn result(&mut self) -> Outcome {
        self.turns += 1;
        let (session, turns) = (self.session(), self.turns);
        self.line(&format!(
            r#"{{"type":"result","subtype":"success","is_error":false,"duration_ms":500,"duration_api_ms":400,"num_turns":1,"session_id":"{session}","stop_reason":"end_turn","total_cost_usd":{turns}.25,"usage":{{"input_tokens":12,"cache_creation_input_tokens":300,"cache_read_input_tokens":4000,"output_tokens":60}},"modelUsage":{{"{MODEL}":{{"inputTokens":12,"outputTokens":60,"cacheReadInputTokens":4000,"cacheCreationInputTokens":300,"costUSD":{turns}.25}}}},"result":"Done.","terminal_reason":"completed"}}"#
        ))?;
        Ok(Flow::Next)
    }

    pub(crate) fn tool_call(&mut self, name: &str, command: &str) -> io::Result<()> {
        let id = self.messages + 1;
        self.assistant(&format!(
            r#"{{"type":"tool_use","id":"toolu_{id:04}","name":"{name}","input":{{"command":"{command}"}}}}"#
        ))
    }

    /// The tool that was called last has said this.
    pub(crate) fn tool_result(&mut self, content: &str) -> io::Result<()> {
        let (session, id) = (self.session(), self.messages);
        self.line(&format!(
            r#"{{"type":"user","message":{{"role":"user","content":[{{"type":"tool_result","tool_use_id":"toolu_{id:04}","content":"{content}","is_error":false}}]}},"parent_tool_use_id":null,"session_id":"{session}"}}"#
        ))
    }

    pub(crate) fn tool_begin(&mut self) -> Outcome {
        self.tool_call("Bash", "make")?;
        Ok(Flow::Next)
    }

    pub(crate) fn tool_end(&mut self) -> Outcome {
        self.tool_result("made")?;
        Ok(Flow::Next)
    }

    pub(crate) fn tool(&mut self, works: Duration) -> Outcome {
        self.tool_begin()?;
        self.child(format!("--burn-cpu {}", works.as_secs_f64()))?;
        self.tool_end()
    }

    pub(crate) fn sleep(&mut self, duration: Duration) -> Outcome {
        thread::sleep(duration);
        Ok(Flow::Next)
    }
}
