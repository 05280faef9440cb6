namespace Wayleave.Devices.Rdma.Wire;

/// <summary>
/// Which payload lengths an opcode allows. Breaking the rule is an invalid request (NAK 0x61), not a silent drop.
/// </summary>
public enum PayloadRule : byte
{
    /// <summary>No payload.</summary>
    None,

    /// <summary>First and Middle packets: exactly the path MTU.</summary>
    ExactMtu,

    /// <summary>Last packets: 1 byte up to the path MTU.</summary>
    OneToMtu,

    /// <summary>Only packets: nothing up to the path MTU.</summary>
    ZeroToMtu,

    /// <summary>ATOMIC WRITE: exactly 8 bytes.</summary>
    EightBytes,

    /// <summary>CNP: exactly 16 reserved bytes.</summary>
    SixteenBytes,
}
