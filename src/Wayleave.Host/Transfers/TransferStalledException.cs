using System.Globalization;
using Wayleave.Core;
using Wayleave.Devices.Rdma.Wire;

namespace Wayleave.Host.Transfers;

/// <summary>
/// A peer answered, but took or gave no byte for so long that the transfer was given up: the memory behind the key was
/// not mapped again after its owner had moved it (RNR NAK).
/// </summary>
/// <param name="peer">Address of the peer's port.</param>
/// <param name="rkey">The key under which its region was used.</param>
/// <param name="limit">How long nothing moved.</param>
public sealed class TransferStalledException(Gid peer, uint rkey, TimeSpan limit) : WayleaveException(
    Errno.ETIMEDOUT,
    $"transfer with {peer}",
    string.Create(
        CultureInfo.InvariantCulture,
        $"no byte of its region under key 0x{rkey:x8} moved for {limit.TotalSeconds:0.###} s; its memory is not ready"),
    "let its owner restore the object, or wait longer: --stall-timeout")
{
    /// <summary>The same failure, told about the operation that the user asked for.</summary>
    public WayleaveException ForOperation(string operation, string peerName) =>
        new(Errno, operation, $"{peerName}: {Reason}", Remedy, this);
}
