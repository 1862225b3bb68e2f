//! What goes to a name server and what comes back, as bytes (RFC 1035 §4). The format is the `domain` crate's.

use std::net::IpAddr;

use domain::base::iana::Rcode;
use domain::base::rdata::ParseRecordData;
use domain::base::{Message, MessageBuilder, Name, ParsedName, Rtype, ToName as _};
use domain::rdata::{A, Aaaa};

use super::DnsError;
use super::host_name::HostName;

/// How large an answer over UDP may be; more may arrive in pieces, of which firewalls let only the first pass.
const UDP_BYTES: u16 = 1232;

/// Which addresses are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

/// Whether a query has the record of RFC 6891, which allows for larger answers and which old servers do not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extension {
    Edns,
    Plain,
}

/// One question to one server.
#[derive(Debug)]
pub(super) struct Query {
    message: Message<Vec<u8>>,
    family: Family,
}

/// What a server answers if it knows the name.
#[derive(Debug)]
pub(super) enum Reply {
    Addresses(Vec<IpAddr>),
    /// The name stands for another, of which the server says nothing.
    Alias(HostName),
    /// There is more than a datagram holds.
    Truncated,
}

impl Query {
    /// Whoever forges an answer has to guess the number, so it is a random one.
    pub(super) fn new(
        host: &HostName,
        family: Family,
        extension: Extension,
    ) -> Result<Self, DnsError> {
        let number = getrandom::u32().map_err(std::io::Error::from)?;
        let [high, low, ..] = number.to_le_bytes();
        let message = encode(u16::from_be_bytes([high, low]), host, family, extension)
            .ok_or(DnsError::Name)?;
        Ok(Self { message, family })
    }

    pub(super) fn as_bytes(&self) -> &[u8] {
        self.message.as_slice()
    }

    /// What these bytes answer; `None` if they are no answer to this query, whoever may have sent them.
    pub(super) fn reply(&self, bytes: &[u8]) -> Option<Result<Reply, DnsError>> {
        let message = Message::from_slice(bytes).ok()?;
        message.is_answer(&self.message).then(|| self.read(message))
    }

    fn read(&self, message: &Message<[u8]>) -> Result<Reply, DnsError> {
        let header = message.header();
        match header.rcode() {
            Rcode::NOERROR if header.tc() => return Ok(Reply::Truncated),
            Rcode::NOERROR => {}
            Rcode::NXDOMAIN => return Err(DnsError::NoSuchName),
            code => return Err(DnsError::Refused(code.to_int())),
        }
        let owner = message.canonical_name().ok_or(DnsError::Broken)?;
        let addresses = match self.family {
            Family::V4 => addresses(message, &owner, |data: A| data.addr().into()),
            Family::V6 => addresses(message, &owner, |data: Aaaa| data.addr().into()),
        }
        .ok_or(DnsError::Broken)?;
        if !addresses.is_empty() {
            return Ok(Reply::Addresses(addresses));
        }
        let asked = message.first_question().ok_or(DnsError::Broken)?;
        if asked.qname().name_eq(&owner) {
            return Err(DnsError::NoAddress);
        }
        HostName::parse(&owner.to_string())
            .map(Reply::Alias)
            .ok_or(DnsError::Broken)
    }
}

fn encode(
    number: u16,
    host: &HostName,
    family: Family,
    extension: Extension,
) -> Option<Message<Vec<u8>>> {
    let kind = match family {
        Family::V4 => Rtype::A,
        Family::V6 => Rtype::AAAA,
    };
    let mut message = MessageBuilder::new_vec();
    message.header_mut().set_id(number);
    message.header_mut().set_rd(true);
    let mut question = message.question();
    question
        .push((Name::vec_from_str(&host.to_string()).ok()?, kind))
        .ok()?;
    let mut additional = question.additional();
    if extension == Extension::Edns {
        additional
            .opt(|opt| {
                opt.set_udp_payload_size(UDP_BYTES);
                Ok(())
            })
            .ok()?;
    }
    Some(additional.into_message())
}

/// The addresses that belong to `owner`; `None` if the answer is not whole.
fn addresses<'a, D: ParseRecordData<'a, [u8]>>(
    message: &'a Message<[u8]>,
    owner: &ParsedName<&'a [u8]>,
    address: fn(D) -> IpAddr,
) -> Option<Vec<IpAddr>> {
    let mut found = Vec::new();
    for record in message.answer().ok()?.limit_to_in::<D>() {
        let record = record.ok()?;
        if record.owner().name_eq(owner) {
            found.push(address(record.into_data()));
        }
    }
    Some(found)
}
