"""What other training programs call their options, and what to give here instead.

The names are those of imagenet18, ffcv-imagenet, torchvision's reference script, timm and Lightning;
docs/COMING_FROM.md says what differs. A bare name that an option here has within its section, such as
`--momentum`, needs no entry.
"""

from __future__ import annotations

from types import MappingProxyType

_IN_YAML = "in the YAML (see rn50_configs/titan8.yaml)"
_LR = f"rates are schedule.phases[].lr {_IN_YAML}"
_EPOCHS = f"epochs are schedule.phases[].epochs {_IN_YAML}"
_BATCH = f"the batch is schedule.phases[].batch_per_gpu {_IN_YAML}"
_VAL_BATCH = f"the validation batch is schedule.phases[].val_batch {_IN_YAML}"
_PX = f"the size is schedule.phases[].px {_IN_YAML}"
_VAL_PX = f"the size of validation is schedule.phases[].val_px {_IN_YAML}"
_EVALUATE = "give --run.eval_only=true --run.checkpoint=PATH"
_WEIGHTS = "nothing is downloaded; weights of a file are validated by --run.eval_only=true --run.checkpoint=PATH"
_PROCESSES = "give --dist.processes=N; by default there is one for each visible GPU"
_SEVERAL = "processes of several machines are started by torchrun, which sets the environment"
_SETS = "give the folder --data.dir, and the set's name as schedule.phases[].data in the YAML"
_AUGMENT = "augmentations are a list, data.augment, in the YAML"
_SGD = "the optimizer is SGD"

_NAMES = {
    _LR: "lr learning_rate base_lr min_lr lr_scheduler sched lr_step_size lr_steps lr_gamma lr_warmup_epochs "
    "lr_warmup_method lr_warmup_decay lr_min warmup_epochs warmup_lr decay_epochs decay_rate lr.lr lr.lr_peak_epoch "
    "lr.lr_schedule_type lr.step_ratio lr.step_length cooldown_epochs",
    _EPOCHS: "epochs num_epochs max_epochs trainer.max_epochs training.epochs",
    _BATCH: "batch_size batch_per_gpu b bs train_batch_size training.batch_size",
    _VAL_BATCH: "val_batch val_batch_size validation_batch_size vb validation.batch_size",
    _PX: "px size img_size image_size input_size train_crop_size crop_size resolution "
    "resolution.min_res resolution.max_res resolution.start_ramp resolution.end_ramp",
    _VAL_PX: "val_px val_crop_size val_resize_size validation.resolution",
    "give --data.dir, a folder of betons": "data data_dir data_path data.path dir",
    _SETS: "train_dir val_dir train_dataset val_dataset data.train_dataset data.val_dataset",
    "give --data.workers": "j num_workers data.num_workers",
    "the page cache keeps what fits; give --data.page_window for a larger set": "data.in_memory cache_dataset",
    _AUGMENT: "auto_augment aa random_erase reprob remode ra_magnitude color_jitter",
    "give --model.arch": "a model model_name model.name",
    "give --model.blurpool": "use_blurpool training.use_blurpool",
    _WEIGHTS: "pretrained model.pretrained weights initial_checkpoint",
    "give --train.momentum": "training.momentum",
    "python -m training.estimate measures the rate without a loader": "synthetic_data",
    "give --train.weight_decay": "wd training.weight_decay",
    "give --train.decay_norm": "norm_weight_decay no_bn_wd bn_wd training.bn_wd",
    "give --train.decay_bias": "bias_weight_decay",
    "give --train.label_smoothing": "smoothing training.label_smoothing",
    "give --train.mixup": "mixup_alpha",
    "give --train.cutmix": "cutmix_alpha",
    "give --train.ema, the decay per step": "model_ema model_ema_decay ema_decay",
    "give --train.amp": "fp16 bf16 precision amp_dtype trainer.precision",
    "give --train.compile": "torchcompile",
    "give --train.flip_tta": "validation.lr_tta lr_tta tta",
    "give --train.clip_norm": "clip_grad clip_grad_norm gradient_clip_val",
    _SGD: "opt optimizer training.optimizer",
    "give --dist.emulate_gpus": "grad_accum_steps accumulate_grad_batches accumulation_steps",
    "give --dist.device": "accelerator",
    "the classes are those of the betons": "num_classes",
    _PROCESSES: "gpu gpus num_gpus world_size nproc_per_node devices trainer.devices distributed training.distributed "
    "dist.world_size strategy multiprocessing_distributed",
    _SEVERAL: "rank local_rank node_rank dist_url dist_backend dist.address dist.port dist.backend num_nodes nnodes "
    "master_addr master_port rdzv_backend rdzv_endpoint rdzv_id standalone max_restarts",
    "BatchNorm statistics are those of each process": "sync_bn sync_batchnorm",
    "give --schedule.imagenet18": "phases",
    "give --run.dir": "output output_dir out_dir logdir log_dir log.dir experiment save_folder default_root_dir "
    "logging.folder",
    _EVALUATE: "e eval evaluate test_only validate training.eval_only",
    "the run folder's checkpoint knows the epoch": "start_epoch",
    "give --run.resume": "ckpt_path load_path",
    "a run is named by its folder, --run.dir": "name run_name exp_name",
    "give --run.deterministic": "use_deterministic_algorithms",
    "give --log.seconds": "p print_freq log_interval logging.log_level",
    "give --log.wandb=PROJECT": "log_wandb wandb_project",
    "give --config-file": "c config config_file cfg",
}
ELSEWHERE = MappingProxyType({name: here for here, names in _NAMES.items() for name in names.split()})
