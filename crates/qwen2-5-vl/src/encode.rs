//! Images through the vision tower: with its graph to train it, without to use it.

use candle_core::Tensor;

use crate::batches::cut;
use crate::error::Result;
use crate::model::Model;
use crate::positions::Grid;
use crate::vision::VisionTrace;

impl Model {
    /// Runs the vision tower, with a graph for the parts of it that are not frozen (for inference:
    /// [`Model::image_features`]): `pixel_values` `(patches, channels * frames * patch * patch)` of all
    /// images one after the other, best on the host, where they are put in order, to `(merged, hidden)`.
    ///
    /// Fails when pixel values and grids do not agree.
    pub fn encode_images(&self, pixel_values: &Tensor, grids: &[Grid]) -> Result<Tensor> {
        Ok(self.vision.forward(pixel_values, grids, |_| ())?.0)
    }

    /// The features `(merged, hidden)` of each of many images, for inference: nothing of the tower's graph
    /// or activations is kept. Images are `pixel_values` `(patches, channels * frames * patch * patch)`
    /// with their grids, and go through the tower together as long as their merged tokens fit
    /// `token_budget`; one with more goes alone.
    ///
    /// Memory is that of the widest step of one block for the budget's patches, whatever the number of
    /// images or blocks.
    ///
    /// # Errors
    /// When pixel values and grids do not agree.
    pub fn image_features(
        &self,
        images: &[(Tensor, Grid)],
        token_budget: usize,
    ) -> Result<Vec<Tensor>> {
        let model = self.detached()?;
        let merge = self.config().vision.spatial_merge_size;
        let mut features = Vec::with_capacity(images.len());
        for batch in cut(images, token_budget, |(_, grid)| grid.tokens(merge)) {
            let pixels: Vec<Tensor> = batch.iter().map(|(pixels, _)| pixels.detach()).collect();
            let grids: Vec<Grid> = batch.iter().map(|&(_, grid)| grid).collect();
            features.extend(model.encode_each(&Tensor::cat(&pixels, 0)?, &grids)?);
        }
        Ok(features)
    }

    /// [`Model::encode_images`], cut into the features `(merged, hidden)` of each image.
    pub(crate) fn encode_each(&self, pixel_values: &Tensor, grids: &[Grid]) -> Result<Vec<Tensor>> {
        let encoded = self.encode_images(pixel_values, grids)?;
        let merge = self.config().vision.spatial_merge_size;
        let mut first = 0;
        let features = grids.iter().map(|grid| {
            let own = grid.tokens(merge);
            // A copy, so that one image's features do not hold on to those of all.
            let features = match grids {
                [_] => encoded.clone(),
                _ => encoded.narrow(0, first, own)?.force_contiguous()?,
            };
            first += own;
            Ok(features)
        });
        features.collect()
    }

    /// [`Model::encode_images`] with all that is computed on the way.
    pub fn trace_images(&self, pixel_values: &Tensor, grids: &[Grid]) -> Result<VisionTrace> {
        let mut blocks = Vec::new();
        let (merged, layout) = self
            .vision
            .forward(pixel_values, grids, |block| blocks.push(block.clone()))?;
        Ok(VisionTrace {
            layout,
            blocks,
            merged,
        })
    }
}
