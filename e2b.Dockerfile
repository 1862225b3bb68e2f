# The E2B template: the supervisor, an agent on the Claude Agent SDK, and settings. template/README.md tells how to build it.
#
# One stage, no CMD, no ENV, no COPY --chmod: E2B's builders refuse the first, start the second once and for all before
# any sandbox exists, drop the third when the template is done, and one of them ignores the last without a word.
#
# Nothing goes below /usr/local, which E2B makes writable for everybody. A command that goes on in the next line does so
# in the first column: E2B's two parsers differ in what they make of an indentation.
FROM e2bdev/base

# Whom commands in a sandbox run as. E2B makes this account itself, at the latest with USER; a plain builder does not.
RUN id -u user >/dev/null 2>&1 || useradd --create-home --shell /bin/bash user

# Wheels only: the SDK's source distribution has no Claude Code inside.
COPY template/requirements.txt /opt/sandtrace/requirements.txt
RUN python3 -m venv /opt/sandtrace/venv && \
/opt/sandtrace/venv/bin/pip install --no-cache-dir --disable-pip-version-check --only-binary=:all: --requirement /opt/sandtrace/requirements.txt

COPY template/env /etc/sandtrace/env
COPY template/agent.py /opt/sandtrace/agent.py
COPY template/dist/sandtrace /opt/sandtrace/bin/sandtrace
# The modes of a checkout are those of somebody's umask. That the binary runs at all is better learnt here.
RUN chmod 0755 /opt/sandtrace /opt/sandtrace/bin /opt/sandtrace/bin/sandtrace /etc/sandtrace && \
chmod 0644 /opt/sandtrace/agent.py /opt/sandtrace/requirements.txt /etc/sandtrace/env && \
ln -sf /opt/sandtrace/bin/sandtrace /usr/bin/sandtrace && sandtrace --version

USER user
WORKDIR /home/user
