using System.Collections.Concurrent;
using Wayleave.Linux.Sharing;

namespace Wayleave.Host.Broker;

// To close a connection may wait for who connected: what was sent by it is closed with it, and a socket that lingers
// waits for its other end. From Linux 6.16 on nothing of the kind can be sent before somebody is let in
// (MessageSocket.Listen); before, as many connections wait here as there is room for, and then nobody else is let in
// until one of them is closed. So who is refused costs others no memory and no descriptor of the host beyond that
// number; those that are connected go on in any case.

/// <summary>Connections that are refused, until the kernel lets go of them; a thread that does nothing else.</summary>
internal sealed class RefusedSockets : IDisposable
{
    private readonly BlockingCollection<MessageSocket> _waiting;
    private readonly CancellationToken _stopping;
    private int _count;

    /// <param name="max">That may wait, besides the one that is being closed.</param>
    /// <param name="stopping">Nobody waits for room any longer.</param>
    public RefusedSockets(int max, CancellationToken stopping)
    {
        _waiting = new BlockingCollection<MessageSocket>(max);
        _stopping = stopping;
        new Thread(Run) { IsBackground = true, Name = "wayleave broker refused" }.Start();
    }

    /// <summary>Not closed yet, the one that waits for room among them.</summary>
    public int Count => Volatile.Read(ref _count);

    /// <summary>Takes a connection over; waits while there is no room for it.</summary>
    public void Add(MessageSocket socket)
    {
        Interlocked.Increment(ref _count);
        try
        {
            _waiting.Add(socket, _stopping);
        }
        catch (OperationCanceledException)
        {
            // Its descriptor ends with the process, and is as good as closed: nobody reads it.
            Interlocked.Decrement(ref _count);
            socket.Shutdown();
        }
    }

    /// <summary>Nothing more comes. What is being closed ends when the kernel lets it, or with the process.</summary>
    public void Dispose() => _waiting.CompleteAdding();

    private void Run()
    {
        foreach (MessageSocket socket in _waiting.GetConsumingEnumerable())
        {
            socket.Dispose();
            Interlocked.Decrement(ref _count);
        }

        _waiting.Dispose();
    }
}
