using System.Security.Cryptography;
using Wayleave.Devices.Rdma;

namespace Wayleave.Host;

/// <summary>Keys and numbers that nobody outside can predict.</summary>
internal sealed class CryptographicKeys : IKeySource
{
    public uint NextUInt32()
    {
        Span<byte> bytes = stackalloc byte[sizeof(uint)];
        RandomNumberGenerator.Fill(bytes);
        return BitConverter.ToUInt32(bytes);
    }
}
