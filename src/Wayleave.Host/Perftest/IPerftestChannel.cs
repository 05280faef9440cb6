namespace Wayleave.Host.Perftest;

/// <summary>Carries what two sides of perftest tell each other, one item after the other.</summary>
internal interface IPerftestChannel : IAsyncDisposable
{
    /// <summary>Whether queue pairs are described as text, else as a struct.</summary>
    bool IsText { get; }

    /// <summary>Sends one item; in one piece, for perftest reads it by one call.</summary>
    Task SendAsync(ReadOnlyMemory<byte> item, CancellationToken cancellation);

    /// <summary>Receives one item.</summary>
    /// <param name="item">As long as the item, or its longest form where the channel knows the ends of items.</param>
    /// <param name="cancellation">Ends the wait, and the use of this channel.</param>
    /// <returns>How long it was; 0 when the peer has ended.</returns>
    /// <exception cref="WayleaveException">EPROTO: the peer has ended in the middle of an item.</exception>
    Task<int> ReceiveAsync(Memory<byte> item, CancellationToken cancellation);

    /// <summary>
    /// Completes when the peer has gone. Takes nothing: an item that comes meanwhile is the next one received. Not
    /// while something is sent or received.
    /// </summary>
    /// <param name="cancellation">Ends the watch; await it before anything else is asked of this channel.</param>
    Task WatchAsync(CancellationToken cancellation);

    /// <summary>The peer is known to be gone: disposing waits for no answer.</summary>
    void Abandon();
}
