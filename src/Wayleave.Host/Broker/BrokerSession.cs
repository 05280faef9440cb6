using Wayleave.Client.Wire;
using Wayleave.Core;

namespace Wayleave.Host.Broker;

/// <summary>
/// What one connection has, by numbers that mean nothing to any other. Of the connection's thread alone.
/// </summary>
internal sealed class BrokerSession(WayleaveHost host, BrokerStore store, BrokerProgram program)
{
    private const int NumbersMax = 1 << 16;

    private readonly Dictionary<uint, object> _objects = [];
    private readonly List<(uint Number, BrokerMapping Mapping)> _mappings = [];
    private uint _next = 1;

    public WayleaveHost Host { get; } = host;

    public BrokerStore Store { get; } = store;

    public BrokerProgram Program { get; } = program;

    /// <summary>Of the protocol, from the greeting on.</summary>
    public uint Version { get; set; } = BrokerMessage.VersionOldest;

    /// <summary>What it has of a GPU's engines, and of a NIC.</summary>
    public IEnumerable<T> All<T>() => _objects.Values.OfType<T>();

    /// <exception cref="WayleaveException">EMFILE.</exception>
    public uint Add(object o)
    {
        if (_objects.Count == NumbersMax || _next == uint.MaxValue)
        {
            throw new WayleaveException(Errno.EMFILE, "open", "this connection has too many open objects");
        }

        uint number = _next++;
        _objects.Add(number, o);
        return number;
    }

    /// <exception cref="WayleaveException">EBADF: it is none of this connection's, or something else.</exception>
    public T Find<T>(uint number, string operation, string noun)
        where T : class =>
        _objects.GetValueOrDefault(number) as T
        ?? throw new WayleaveException(Errno.EBADF, operation, $"{number} is no {noun} of this connection");

    public BrokerBuffer FindBuffer(uint number, string operation) =>
        Find<BrokerBuffer>(number, operation, "buffer");

    /// <summary>Takes a number out; nothing has it any more.</summary>
    /// <exception cref="WayleaveException">EBADF.</exception>
    public object Remove(uint number) =>
        _objects.Remove(number, out object? found)
            ? found
            : throw new WayleaveException(Errno.EBADF, "close", $"{number} is nothing of this connection");

    public void Add(uint number, BrokerMapping mapping) => _mappings.Add((number, mapping));

    /// <exception cref="WayleaveException">EBADF: the buffer is not mapped.</exception>
    public BrokerMapping RemoveMapping(uint number)
    {
        int index = _mappings.FindIndex(m => m.Number == number);
        if (index < 0)
        {
            throw new WayleaveException(Errno.EBADF, "unmap", $"{number} is no mapped buffer of this connection");
        }

        BrokerMapping mapping = _mappings[index].Mapping;
        _mappings.RemoveAt(index);
        return mapping;
    }

    /// <summary>
    /// The connection has ended. First what uses memory stops, engines and peers; then the memory is let go of.
    /// </summary>
    public void End()
    {
        foreach (IBrokerUse use in Store.EndsUses ? All<IBrokerUse>().Reverse() : [])
        {
            End(use, use.End);
        }

        foreach ((_, BrokerMapping mapping) in _mappings)
        {
            End(mapping, () => Store.Mappings.LetGo(mapping));
        }

        foreach (BrokerBuffer buffer in All<BrokerBuffer>())
        {
            End(buffer, () => Store.Buffers.Close(Program, buffer));
        }
    }

    /// <summary>
    /// Ends one thing for the connection. One that cannot be ended is a bug of ours, which is told: it stays on the
    /// program's account, with the memory that it keeps, and keeps nothing else from its end.
    /// </summary>
    public void End(object what, Action end)
    {
        try
        {
            Store.Ending?.Invoke(what);
            end();
        }
        catch (Exception e) when (e is not OutOfMemoryException)
        {
            Store.HandleEndFailed($"{Program.Holder}: {what.GetType().Name}: {e}");
        }
    }
}

/// <summary>Something that a program has by number and that ends by its close, or with the connection.</summary>
internal interface IBrokerUse
{
    /// <summary>
    /// Returns when it uses no memory any more. Once, on the connection's thread; takes the host lock itself.
    /// </summary>
    void End();
}
