using Wayleave.Core;
using Wayleave.Core.Buffers;
using Wayleave.Core.Reservations;
using Wayleave.Core.Retirement;

namespace Wayleave.Devices.Vfio;

public enum VfioTransitionState
{
    /// <summary>An earlier one has not ended (<c>memory_lock</c>).</summary>
    Queued,

    /// <summary>Importers were told; somebody still uses a BAR.</summary>
    Stopping,

    /// <summary>Nobody uses a BAR, and the function changes: a reset clears what is behind it.</summary>
    Changing,

    /// <summary>The function has changed; buffers come back to life one by one.</summary>
    Restoring,

    Completed,
}

public enum VfioTransitionEvent
{
    /// <summary>It is the first in the queue.</summary>
    Started,

    /// <summary>Every importer has unmapped, or there was none to stop.</summary>
    Stopped,

    /// <summary>The function has changed.</summary>
    Changed,

    /// <summary>Every buffer is usable again, or stays revoked because the BARs are off.</summary>
    Restored,
}

//   Queued --Started--> Stopping --Stopped--> Changing --Changed--> Restoring --Restored--> Completed

/// <summary>
/// A change of a function that switches its BARs off, or on again (<c>vfio_pci_dma_buf_move</c> and what is done
/// between its two calls). What sleeps in the kernel under <c>memory_lock</c> goes on here by itself. Host lock held by
/// the caller, unless a member says otherwise.
/// </summary>
public sealed class VfioTransition
{
    private readonly VfioDevice _device;
    private readonly Action<Action> _apply;
    private readonly bool _stops;
    private readonly List<RevokeOperation> _revokes = [];
    private readonly Queue<VfioBuffer> _restoring = new();
    private Action? _completed;
    private volatile bool _isCompleted;
    private int _stopping;

    internal VfioTransition(VfioDevice device, string name, bool stops, Action<Action> apply) =>
        (_device, Name, _stops, _apply) = (device, name, stops, apply);

    /// <summary>What happens to the function, for people: <c>function-level reset</c>.</summary>
    public string Name { get; }

    public VfioTransitionState State { get; private set; }

    /// <summary>Readable without the lock.</summary>
    public bool IsCompleted => _isCompleted;

    /// <summary>
    /// The revokes of this change, one for each buffer that was alive; their proofs say who was stopped.
    /// </summary>
    public IReadOnlyList<RevokeOperation> Revokes => _revokes;

    /// <summary>The state after an event, or null when the event does not apply.</summary>
    public static VfioTransitionState? Next(VfioTransitionState state, VfioTransitionEvent ev) => (state, ev) switch
    {
        (VfioTransitionState.Queued, VfioTransitionEvent.Started) => VfioTransitionState.Stopping,
        (VfioTransitionState.Stopping, VfioTransitionEvent.Stopped) => VfioTransitionState.Changing,
        (VfioTransitionState.Changing, VfioTransitionEvent.Changed) => VfioTransitionState.Restoring,
        (VfioTransitionState.Restoring, VfioTransitionEvent.Restored) => VfioTransitionState.Completed,
        _ => null,
    };

    /// <summary>When the edge calls <see cref="HandleTimeout"/>; null when nobody is waited for.</summary>
    public TimeSpan? NextDeadline => _revokes.Find(r => !r.IsCompleted)?.Deadline; // all began at once

    /// <summary>
    /// Tells the proofs that the patience is over: they name who is late. The change goes on waiting.
    /// </summary>
    public void HandleTimeout(TimeSpan now)
    {
        _device.Host.AssertHeld();
        foreach (RevokeOperation revoke in _revokes)
        {
            revoke.HandleTimeout(now);
        }
    }

    /// <summary>
    /// Runs <paramref name="callback"/> at the end, after the lock was released; false when it has ended already.
    /// </summary>
    public bool TryAddCompletion(Action callback)
    {
        _device.Host.AssertHeld();
        if (_isCompleted)
        {
            return false;
        }

        _completed += callback;
        return true;
    }

    public override string ToString() => $"{Name} of {_device.Function.Name}";

    internal void Start()
    {
        Move(VfioTransitionEvent.Started);
        _stopping = 1;
        if (_stops)
        {
            // Whoever is told may let go of the last reference.
            foreach (VfioBuffer buffer in _device.Buffers.ToArray())
            {
                Stop(buffer);
            }
        }

        HandleStopped();
    }

    private void Stop(VfioBuffer buffer)
    {
        if (buffer.Shared.IsRevoked && buffer.Shared.Attachments.All(a => a.State == MappingState.Unmapped))
        {
            return;
        }

        buffer.IsStopped |= !buffer.Shared.IsRevoked;

        RevokeOperation revoke =
            RevokeOperation.Start(buffer.Shared, _device.Options.PolicyFor(ToString()));
        _revokes.Add(revoke);
        if (_device.Options.WaitsForImporters && revoke.TryAddRetirement(HandleRetired))
        {
            _stopping++;
        }
    }

    // Without the lock.
    private void HandleRetired()
    {
        using (_device.Host.Enter())
        {
            HandleStopped();
        }
    }

    private void HandleStopped()
    {
        if (--_stopping > 0)
        {
            return;
        }

        Move(VfioTransitionEvent.Stopped);
        _apply(HandleChanged);
    }

    private void HandleChanged()
    {
        _device.Host.AssertHeld();
        Move(VfioTransitionEvent.Changed);
        _device.Host.Trace("vfio.apply", Name, (long)_device.PowerState, _device.IsMemoryEnabled ? 1 : 0);
        if (_device.IsMemoryEnabled)
        {
            foreach (VfioBuffer buffer in _device.Buffers)
            {
                _restoring.Enqueue(buffer);
            }
        }

        RestoreNext();
    }

    private void RestoreNext()
    {
        while (_restoring.TryDequeue(out VfioBuffer? buffer))
        {
            AcquireTicket ticket = new(_device.Host, ToString());
            LockOutcome outcome = buffer.Shared.Reservation.TryLock(ticket);
            if (outcome.Wait is { } wait)
            {
                wait.TryAddCallback(() =>
                {
                    using (_device.Host.Enter())
                    {
                        Restore(buffer, ticket);
                        RestoreNext();
                    }
                });
                return;
            }

            Restore(buffer, ticket);
        }

        Move(VfioTransitionEvent.Restored);
        _isCompleted = true;
        if (_completed is { } callback)
        {
            _device.Host.Defer(callback);
        }

        _device.HandleCompleted(this);
    }

    private static void Restore(VfioBuffer buffer, AcquireTicket ticket)
    {
        // Refused, it stays dead: somebody else has taken it back, and that is for good.
        buffer.IsStopped &= buffer.Shared.TryUnrevokeLocked(ticket) != Errno.Success;
        buffer.Shared.Reservation.Unlock(ticket);
    }

    private void Move(VfioTransitionEvent ev) =>
        State = Next(State, ev) ?? throw new InvalidOperationException($"{this}: {ev} does not apply when {State}");
}
