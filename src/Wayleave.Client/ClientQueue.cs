using Wayleave.Client.Wire;

namespace Wayleave.Client;

/// <summary>How much of an engine a queue gets beside others that are busy too.</summary>
public enum ClientPriority
{
    Low = 1,

    Normal = 4,

    High = 16,
}

/// <summary>Which engine of a GPU runs the commands of a queue.</summary>
public enum ClientEngine
{
    /// <summary>Knows every command.</summary>
    Compute = 0,

    /// <summary>Moves bytes beside the compute engine: Nop, Fill, Copy and Release. Others are EINVAL.</summary>
    Copy = 1,
}

/// <summary>By what commands of a program name a buffer.</summary>
/// <param name="Device">The GPU whose commands may use it.</param>
/// <param name="Handle">Where the host parses commands.</param>
/// <param name="Address">Where a page table decides; 0 where the host parses.</param>
public sealed record ClientBinding(ClientDevice Device, uint Handle, ulong Address);

/// <summary>
/// A queue of one of a GPU's engines, whose jobs run one after the other. Disposing closes it: what was submitted goes
/// on. Disposing twice is fine.
/// </summary>
public sealed class ClientQueue : IDisposable
{
    private readonly BrokerClient _client;
    private readonly uint _number;
    private int _isClosed;

    internal ClientQueue(BrokerClient client, uint number, string name, ClientEngine engine, bool usesAddresses) =>
        (_client, _number, Name, Engine, UsesAddresses) = (client, number, name, engine, usesAddresses);

    public string Name { get; }

    public ClientEngine Engine { get; }

    internal uint Number => _number;

    /// <summary>Whether commands name memory by address; by handle and offset otherwise.</summary>
    public bool UsesAddresses { get; }

    /// <summary>Submits commands. Returns when they are in the queue.</summary>
    /// <param name="commands">Of 64 bytes each, as docs/internals/gpu.md has them; at most 60 KiB.</param>
    /// <param name="after">Fences that have to signal before, well or not; stay the caller's.</param>
    /// <returns>
    /// Signals at the end, with ECANCELED when the program dies before, EFAULT, EACCES or ETIME as the engine says.
    /// </returns>
    /// <exception cref="BrokerException">
    /// EINVAL, ENOENT, EACCES: a command is refused, and the reason says which; or a fence is a program's own. EAGAIN:
    /// the queue is full. EDQUOT.
    /// </exception>
    public ClientFence Submit(ReadOnlyMemory<byte> commands, params ReadOnlySpan<ClientFence> after) =>
        _client.AskForFence($"submit to {Name}", BrokerOperation.Submit, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteBytes(commands.Span);
        }, after);

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _isClosed, 1) == 0)
        {
            _client.Close($"close {Name}", _number);
        }
    }
}

/// <summary>
/// A timeline that this program drives by hand (<c>sw_sync</c>): fences for values of a counter. Programs may wait for
/// them; no work of a device does (EINVAL), because nobody promises that they signal. Disposing, and the program's
/// death, end what is pending with ENOENT.
/// </summary>
public sealed class ClientTimeline : IDisposable
{
    private readonly BrokerClient _client;
    private readonly uint _number;
    private int _isClosed;

    internal ClientTimeline(BrokerClient client, uint number, string name) =>
        (_client, _number, Name) = (client, number, name);

    public string Name { get; }

    /// <summary>The fence of a value; signalled at once when the timeline is there already.</summary>
    /// <exception cref="BrokerException">EDQUOT.</exception>
    public ClientFence MakeFence(uint value) =>
        _client.AskForFence($"make a fence of {Name}", BrokerOperation.MakeFence, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteUInt32(value);
        });

    /// <summary>Goes on, and signals what it passes.</summary>
    public void Advance(uint count) =>
        _client.Ask($"advance {Name}", BrokerOperation.Advance, (ref BrokerWriter body) =>
        {
            body.WriteUInt32(_number);
            body.WriteUInt32(count);
        });

    public void Dispose()
    {
        if (Interlocked.Exchange(ref _isClosed, 1) == 0)
        {
            _client.Close($"close {Name}", _number);
        }
    }
}
