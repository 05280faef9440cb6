namespace Wayleave.Devices.Ethernet.Wire;

/// <summary>Control bits of TCP (RFC 9293 3.1, RFC 3168); the values are those on the wire.</summary>
[Flags]
public enum TcpFlags : byte
{
    None = 0,
    Fin = 1,
    Syn = 2,
    Rst = 4,
    Psh = 8,
    Ack = 16,
    Urg = 32,
    Ece = 64,
    Cwr = 128,
}
