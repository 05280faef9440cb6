using Wayleave.Host.Control;

namespace Wayleave.Host.Transfers;

// The other host gives an object up when its lease ends. Before there is one only a timer of its does, seconds later,
// and so long the memory is taken: whatever we make ready here comes before the object, and what fails between the
// object and its lease is told there at once.

/// <summary>
/// An object that was just made at another host. Disposing before <see cref="LeaseAsync"/> has succeeded gives it up.
/// </summary>
internal sealed class MadeObject : IAsyncDisposable
{
    private static readonly TimeSpan s_patience = TimeSpan.FromSeconds(2);

    private readonly ControlClient _remote;
    private bool _isLeased;

    private MadeObject(ControlClient remote, ulong id) => (_remote, Id) = (remote, id);

    /// <summary>By which the other host knows it.</summary>
    public ulong Id { get; }

    /// <summary>Makes one.</summary>
    /// <exception cref="WayleaveException">As <see cref="ControlClient.CreateObjectAsync"/>.</exception>
    public static async Task<MadeObject> CreateAsync(
        ControlClient remote, WlUrl target, ulong sizeBytes, CancellationToken cancellation)
    {
        ObjectDocument made = await remote.CreateObjectAsync(
            new CreateObjectDocument { Device = target.Device!, Name = target.Name!, SizeBytes = sizeBytes },
            cancellation).ConfigureAwait(false);
        return new MadeObject(remote, made.Id);
    }

    /// <summary>Leases it. From then on the end of the lease gives it up.</summary>
    /// <exception cref="WayleaveException">As <see cref="ControlClient.LeaseAsync"/>.</exception>
    public async Task<HeldLease> LeaseAsync(LeaseRequestDocument request, CancellationToken cancellation)
    {
        HeldLease lease = await _remote.LeaseAsync(Id, request, cancellation).ConfigureAwait(false);
        _isLeased = true;
        return lease;
    }

    public async ValueTask DisposeAsync()
    {
        if (_isLeased)
        {
            return;
        }

        using CancellationTokenSource limit = new(s_patience);
        try
        {
            await _remote.DeleteObjectAsync(Id, limit.Token).ConfigureAwait(false);
        }
        catch (Exception e) when (e is WayleaveException or OperationCanceledException)
        {
            // What made us give up says more. A host that does not hear us gives the object up by itself.
        }
    }
}
