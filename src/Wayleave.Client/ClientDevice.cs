using Wayleave.Client.Wire;
using Wayleave.Linux;

namespace Wayleave.Client;

/// <summary>What a program wants done with the storage of a buffer.</summary>
public enum ClientStorage
{
    /// <summary>It stays where it is: programs may map it, and whoever does cannot be made to stop.</summary>
    Mappable = 0,

    /// <summary>It can be taken back at any time: nobody may map it, but devices may use it.</summary>
    Revocable = 1,

    /// <summary>
    /// Programs may map it, and it can be taken back: at the deadline whoever still maps it sees zeros from then, and
    /// what it writes there is seen by nobody.
    /// </summary>
    Withdrawable = 2,
}

/// <summary>A device that a program has opened.</summary>
public sealed class ClientDevice
{
    private readonly BrokerClient _client;
    private readonly uint _number;

    internal ClientDevice(BrokerClient client, string name, uint number, ulong memoryBytes) =>
        (_client, Name, _number, MemoryBytes) = (client, name, number, memoryBytes);

    public string Name { get; }

    /// <summary>All of its memory.</summary>
    public ulong MemoryBytes { get; }

    /// <summary>Takes zeroed memory of the device.</summary>
    /// <param name="name">For people; at most 31 bytes of UTF-8.</param>
    /// <param name="sizeBytes">Positive.</param>
    /// <param name="storage">Whether it may be mapped or taken back.</param>
    /// <returns>Closed by disposing; the memory is freed when nobody has it any more.</returns>
    /// <exception cref="BrokerException">ENOSPC: no room. EDQUOT: this program has as much as it may.</exception>
    public ClientBuffer Allocate(string name, ulong sizeBytes, ClientStorage storage = ClientStorage.Mappable)
    {
        uint number = 0;
        _client.Ask($"allocate {Name}/{name}", BrokerOperation.Allocate, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteUInt32((uint)storage);
            body.WriteUInt64(sizeBytes);
            body.WriteName(name);
        }, (ref BrokerReader body, FileDescriptor[] _) => body.TryReadUInt32(out number) && body.IsEnd);
        return new ClientBuffer(_client, name, number, sizeBytes);
    }
}
