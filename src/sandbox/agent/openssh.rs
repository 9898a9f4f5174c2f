//! OpenSSH's own form of private keys (`PROTOCOL.key` of its sources).

use super::keys::{KeyError, Pair};
use super::wire::{Reader, without_zeros};
use ring::rand::SystemRandom;
use ring::rsa::{KeyPairComponents, PublicKeyComponents};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, RsaKeyPair,
};

const MAGIC: &[u8] = b"openssh-key-v1\0";

/// The key and its comment.
pub(super) fn read(bytes: &[u8]) -> Result<(Pair, String), KeyError> {
    let (cipher, private) = outer(bytes).ok_or(KeyError::Form)?;
    if cipher != b"none" {
        return Err(KeyError::Encrypted);
    }
    let mut fields = Reader(private);
    // Twice the same number: tells a wrong passphrase.
    let (_, _, kind) = (fields.number(), fields.number(), fields.string().ok_or(KeyError::Form)?);
    let pair = match kind {
        b"ssh-ed25519" => ed25519(&mut fields),
        b"ecdsa-sha2-nistp256" | b"ecdsa-sha2-nistp384" => ecdsa(&mut fields),
        b"ssh-rsa" => rsa(&mut fields),
        _ => return Err(KeyError::Kind),
    };
    let pair = pair.ok_or(KeyError::Form)?;
    Ok((pair, String::from_utf8_lossy(fields.string().unwrap_or_default()).into_owned()))
}

/// The cipher and the private part.
fn outer(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut fields = Reader(bytes.strip_prefix(MAGIC)?);
    let (cipher, _, _) = (fields.string()?, fields.string()?, fields.string()?);
    let (_count, _public) = (fields.number()?, fields.string()?);
    Some((cipher, fields.string()?))
}

fn ed25519(fields: &mut Reader<'_>) -> Option<Pair> {
    let (public, private) = (fields.string()?, fields.string()?);
    let seed = private.get(..32)?;
    Ed25519KeyPair::from_seed_and_public_key(seed, public).ok().map(Pair::Ed25519)
}

fn ecdsa(fields: &mut Reader<'_>) -> Option<Pair> {
    let (curve, point, number) = (fields.string()?, fields.string()?, fields.integer()?);
    let (algorithm, curve, length) = match curve {
        b"nistp256" => (&ECDSA_P256_SHA256_FIXED_SIGNING, "nistp256", 32usize),
        b"nistp384" => (&ECDSA_P384_SHA384_FIXED_SIGNING, "nistp384", 48),
        _ => return None,
    };
    let mut whole = vec![0; length.checked_sub(number.len())?];
    whole.extend_from_slice(number);
    let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, &whole, point, &SystemRandom::new());
    pair.ok().map(|pair| Pair::Ecdsa(pair, curve))
}

fn rsa(fields: &mut Reader<'_>) -> Option<Pair> {
    let (n, e, d) = (fields.integer()?, fields.integer()?, fields.integer()?);
    let (inverse, p, q) = (fields.integer()?, fields.integer()?, fields.integer()?);
    let (d_p, d_q) = (remainder(d, &less_one(p)), remainder(d, &less_one(q)));
    let parts = KeyPairComponents {
        public_key: PublicKeyComponents { n, e },
        d,
        p,
        q,
        dP: without_zeros(&d_p),
        dQ: without_zeros(&d_q),
        qInv: inverse,
    };
    RsaKeyPair::from_components(&parts).ok().map(|pair| Pair::Rsa(Box::new(pair)))
}

/// An odd number less one.
fn less_one(number: &[u8]) -> Vec<u8> {
    let mut out = number.to_vec();
    if let Some(last) = out.last_mut() {
        *last &= 0xfe;
    }
    out
}

/// The remainder of a division, big-endian, bit by bit: this is done once a key.
fn remainder(number: &[u8], divisor: &[u8]) -> Vec<u8> {
    // One byte more than the divisor, so that doubling does not overflow.
    let mut rest = vec![0u8; divisor.len() + 1];
    let divisor: Vec<u8> = std::iter::once(0).chain(divisor.iter().copied()).collect();
    if divisor.iter().all(|b| *b == 0) {
        return vec![];
    }
    for bit in number.iter().flat_map(|byte| (0..8).rev().map(move |i| byte >> i & 1)) {
        let mut carry = bit;
        for byte in rest.iter_mut().rev() {
            let next = *byte >> 7;
            *byte = *byte << 1 | carry;
            carry = next;
        }
        if rest >= divisor {
            let mut borrow = 0;
            for (byte, sub) in rest.iter_mut().rev().zip(divisor.iter().rev()) {
                let difference = i16::from(*byte) - i16::from(*sub) - borrow;
                borrow = i16::from(difference < 0);
                *byte = (difference & 0xff) as u8;
            }
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_are_right() {
        for (number, divisor) in [(1_000_003u64, 97u64), (0xffff_ffff_ffff, 0x1_0001), (5, 7), (0, 3), (1 << 40, 256)] {
            let rest = remainder(&number.to_be_bytes(), without_zeros(&divisor.to_be_bytes()));
            let value = rest.iter().fold(0u64, |all, b| all << 8 | u64::from(*b));
            assert_eq!(value, number % divisor, "{number} % {divisor}");
        }
        assert_eq!(less_one(&[1, 0x81]), [1, 0x80]);
        assert!(remainder(&[1], &[0]).is_empty());
    }

    #[test]
    fn what_is_no_key_is_refused() {
        for bad in [&b""[..], MAGIC, b"openssh-key-v1\0\0\0\0\x04none", b"openssh-key-v1\0\xff\xff\xff\xff"] {
            assert_eq!(read(bad).err(), Some(KeyError::Form));
        }
    }
}
